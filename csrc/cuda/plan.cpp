#include "plan.h"

#include <algorithm>

namespace gradfast::cuda {
namespace {

int64_t round_up(int64_t a, int64_t b) {
    return ceil_divide(a, b) * b;
}

// Multiply-adds that a tensor core does in the time of one of the scalar units (A100: 312 and 156 to 19.5
// TFLOP/s).
double tensor_speed(Math math) {
    return math == Math::tf32 ? 8 : on_tensor_cores(math) ? 16 : 1;
}

// Instructions for one tap of one cell of tap_sum_kernel, in multiply-adds.
constexpr double kTapCost = 24;

// What a multiply-add of depthwise.cu costs, which loads for every few, in those of a tile that is all in
// use: a guess until it is measured.
constexpr double kNarrowCost = 4;

// Blocks per multiprocessor that hide a block's start and end.
constexpr int64_t kBlocksPerMultiprocessor = 4;

// Gives each block a run of items, as long as enough blocks are left.
void split_items(Grid& grid, int64_t samples, int64_t longest, int multiprocessors) {
    const int64_t wanted = std::max<int64_t>(1, multiprocessors * kBlocksPerMultiprocessor);
    const int64_t least_blocks = ceil_divide(wanted, std::max<int64_t>(1, samples * grid.parts));
    const int64_t run = std::min<int64_t>(kMaxItems, std::min(longest, grid.items / least_blocks));
    grid.items_per_block = std::max<int64_t>(1, run);
    grid.item_blocks = ceil_divide(grid.items, grid.items_per_block);
    grid.blocks = samples * grid.parts * grid.item_blocks;
}

double triangle(int64_t n) {
    return 0.5 * static_cast<double>(n) * static_cast<double>(n + 1);
}

// Multiply-adds of the Gram matrices of all tile pairs for a summed dimension of width.
double gram_cost(int64_t positions, double width, const TileExtent& tile) {
    return triangle(ceil_divide(positions, tile.m)) * tile.m * tile.n * width;
}

// Multiply-adds of one row's gradient of one group in tiles, what they pad included.
double tile_cost(const ContractionSize& s, Math math) {
    const TileExtent e = direct_tile(math, Tile::small);
    return static_cast<double>(round_up(s.position_channels, e.m)) *
           static_cast<double>(round_up(s.window_width, e.n)) *
           static_cast<double>(round_up(s.positions, e.k));
}

double narrow_cost(const ContractionSize& s, Math math) {
    return kNarrowCost * tensor_speed(math) * static_cast<double>(s.position_channels) *
           static_cast<double>(s.window_width) * static_cast<double>(s.positions);
}

const char* math_name(Math math) {
    switch (math) {
        case Math::bf16:
            return "bf16";
        case Math::fp16:
            return "fp16";
        case Math::tf32:
            return "tf32";
        case Math::fp32:
            return "fp32";
        case Math::fp64:
            break;
    }
    return "fp64";
}

}  // namespace

ContractionSize contraction_size(const ConvShape& s) {
    return {s.rows,
            s.samples,
            s.groups,
            s.positions(),
            s.position_channels,
            s.window_width(),
            s.taps(),
            s.frames * ConvShape::product(s.window),
            s.unit_stride(),
            s.transposed};
}

bool is_narrow(const ContractionSize& s, Math math) {
    return narrow_cost(s, math) < tile_cost(s, math);
}

Form choose_form(const ContractionSize& s, Math math) {
    if (s.positions == 1 && s.groups == 1 && s.taps == 1) return Form::rank_one;
    const TileExtent gram = gram_tile(math);
    const auto rows = static_cast<double>(s.rows);
    const int64_t shared = s.transposed ? s.position_channels : s.window_width;
    const int64_t rowwise = s.transposed ? s.window_width : s.position_channels;

    const double direct_cost = rows * std::min(tile_cost(s, math), narrow_cost(s, math));
    const double rows_cost =
        gram_cost(s.positions, rows * static_cast<double>(round_up(rowwise, gram.k)), gram);
    const double full_cost =
        rows_cost + gram_cost(s.positions, static_cast<double>(round_up(shared, gram.k)), gram);
    Form form = direct_cost <= full_cost ? Form::direct : Form::gram;

    const bool pixel_gram_applies = !s.transposed && s.unit_stride && s.taps > 1;
    if (pixel_gram_applies) {
        const auto t = static_cast<double>(s.positions);
        const double pixel_cost =
            rows_cost +
            gram_cost(s.pixels, static_cast<double>(round_up(s.window_width / s.taps, gram.k)), gram) +
            t * t * static_cast<double>(s.taps) * kTapCost * tensor_speed(math);
        if (pixel_cost < std::min(direct_cost, full_cost)) form = Form::pixel_gram;
    }
    return form;
}

Grid direct_grid(const ContractionSize& s, Math math, int multiprocessors) {
    Grid grid;
    grid.items = s.rows;
    const auto fit = [&](Tile tile) {
        const TileExtent e = direct_tile(math, tile);
        grid.tile = tile;
        grid.tiles_m = ceil_divide(s.position_channels, e.m);
        grid.tiles_n = ceil_divide(s.window_width, e.n);
        grid.parts = s.groups * grid.tiles_m * grid.tiles_n;
        return grid.tiles_m * e.m * grid.tiles_n * e.n;
    };
    // The large tile moves half the bytes for a product: taken where it pads by less than an eighth more and
    // still fills the device.
    const int64_t small_area = fit(Tile::small);
    if (on_tensor_cores(math)) {
        const int64_t large_area = fit(Tile::large);
        const bool fills = s.samples * s.rows * grid.parts >= 2 * multiprocessors;
        if (8 * large_area > 9 * small_area || !fills) fit(Tile::small);
    }
    const TileExtent e = direct_tile(math, grid.tile);
    const int64_t steps = ceil_divide(s.positions, e.k);
    grid.resident = !s.transposed && steps <= e.stages;
    split_items(grid, s.samples, grid.resident ? kMaxItems : 1, multiprocessors);
    grid.resident = grid.resident && grid.items_per_block > 1;
    return grid;
}

Grid gram_grid(const ContractionSize& s, Math math, int multiprocessors, bool cross) {
    Grid grid;
    const TileExtent e = gram_tile(math);
    grid.items = cross ? s.rows * (s.rows + 1) / 2 : s.rows;
    grid.tiles_m = grid.tiles_n = ceil_divide(s.positions, e.m);
    const int64_t pairs = cross ? grid.tiles_m * grid.tiles_m : grid.tiles_m * (grid.tiles_m + 1) / 2;
    grid.parts = s.groups * pairs;
    split_items(grid, s.samples, kMaxItems, multiprocessors);
    return grid;
}

Grid dot_grid(const ContractionSize& s, Math math, int multiprocessors) {
    Grid grid;
    const TileExtent e = dot_tile(math);
    grid.items = s.rows;
    grid.tiles_m = ceil_divide(s.positions, e.m);
    grid.tiles_n = ceil_divide(s.position_channels, e.n);
    grid.parts = s.groups * grid.tiles_m * grid.tiles_n;
    split_items(grid, s.samples, kMaxItems, multiprocessors);
    return grid;
}

Math math_of_name(const char* op, const std::string& name) {
    for (const Math math : {Math::bf16, Math::fp16, Math::tf32, Math::fp32, Math::fp64})
        if (name == math_name(math)) return math;
    TORCH_CHECK_VALUE(false, op, ": math is \"", name, "\"; wanted bf16, fp16, tf32, fp32 or fp64");
}

std::string variant_name(Form form, const ContractionSize& s, Math math, int multiprocessors) {
    const std::string math_of = std::string(" ") + math_name(math);
    if (form == Form::rank_one) return form_name(form) + math_of;
    if (form == Form::direct && is_narrow(s, math)) return "depthwise" + math_of;
    const bool direct = form == Form::direct;
    const TileExtent e =
        direct ? direct_tile(math, direct_grid(s, math, multiprocessors).tile) : gram_tile(math);
    return (direct ? "direct" : "gram") + math_of + " " + std::to_string(e.m) + "x" + std::to_string(e.n);
}

}  // namespace gradfast::cuda
