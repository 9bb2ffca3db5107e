#include "weight_gradient.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/triu.h>

#include <limits>

#include "depthwise.h"
#include "sums.h"

namespace gradfast::cuda {
namespace {

int32_t narrow_parts(const char* op, int64_t parts) {
    return narrow(op, "the number of tiles", parts);
}

void direct(const char* op, const WeightGradient& w, const Grid& grid, const DeviceScope& device,
            const BlockSums& sums) {
    DirectParams p;
    p.position = w.position;
    p.window = w.window;
    p.positions = w.positions;
    p.destination = sums.from(0);
    p.rows = narrow(op, "the number of rows", w.size.rows);
    p.groups = narrow(op, "groups", w.size.groups);
    p.rows_per_block = static_cast<int32_t>(grid.items_per_block);
    p.row_blocks = static_cast<int32_t>(grid.item_blocks);
    p.tiles_m = static_cast<int32_t>(grid.tiles_m);
    p.tiles_n = static_cast<int32_t>(grid.tiles_n);
    p.resident = grid.resident;
    narrow_parts(op, grid.parts);
    launch_blocks(grid.blocks, p, [&](int64_t blocks, const DirectParams& q) {
        return launch_direct(w.math, grid.tile, blocks, q, device.stream());
    });
}

GramParams gram_params(const char* op, const WeightGradient& w, const Grid& grid, bool cross) {
    GramParams p;
    p.shared = w.size.transposed ? w.position : w.window;
    p.rowwise = w.size.transposed ? w.window : w.position;
    p.positions = w.positions;
    p.rows = narrow(op, "the number of rows", w.size.rows);
    p.groups = narrow(op, "groups", w.size.groups);
    p.items = narrow(op, "the number of pairs of rows", grid.items);
    p.items_per_block = static_cast<int32_t>(grid.items_per_block);
    p.item_blocks = static_cast<int32_t>(grid.item_blocks);
    p.tiles = static_cast<int32_t>(grid.tiles_m);
    p.tile_pairs = narrow_parts(op, grid.parts / w.size.groups);
    p.cross = cross;
    narrow_parts(op, grid.parts);
    return p;
}

void launch_gram_blocks(const WeightGradient& w, int64_t blocks, const GramParams& params,
                        const DeviceScope& device) {
    launch_blocks(blocks, params,
                  [&](int64_t n, const GramParams& p) { return launch_gram(w.math, n, p, device.stream()); });
}

// The Gram matrix of the windows from that of the pixels: taps times fewer products. A few samples at a time.
void pixel_gram(const char* op, const WeightGradient& w, const DeviceScope& device, const BlockSums& sums) {
    const int64_t pixels = w.size.pixels, positions = w.size.positions, groups = w.size.groups;
    const auto options = w.window_data.options().dtype(accumulate_dtype(w.window_data.scalar_type()));
    const int64_t bytes_per_sample =
        groups * (pixels * pixels + positions * positions) * static_cast<int64_t>(options.dtype().itemsize());
    const int64_t at_once = std::max<int64_t>(1, std::min(w.size.samples, kScratchBytes / bytes_per_sample));
    const auto pixel_scratch = at::empty({at_once, groups, pixels, pixels}, options);
    const auto window_scratch = at::empty({at_once, groups, positions, positions}, options);

    for (int64_t first = 0; first < w.size.samples; first += at_once) {
        const int64_t samples = std::min(at_once, w.size.samples - first);
        WeightGradient part = w;
        part.size.samples = samples;
        part.position.data = advance(w.position.data, first * w.position.sample_stride, w.position_data);
        part.window.data = advance(w.window.data, first * w.window.sample_stride, w.window_data);

        WeightGradient image = part;  // each pixel a position, no taps
        image.size.positions = pixels;
        image.window.windowed = false;
        image.window.width = static_cast<int32_t>(w.size.window_width / w.size.taps);
        image.positions.count = narrow(op, "the number of pixels", pixels);
        const Grid image_grid = gram_grid(image.size, w.math, device.multiprocessors(), false);
        GramParams of_pixels = gram_params(op, image, image_grid, false);
        of_pixels.gram = pixel_scratch.data_ptr();
        of_pixels.store_gram = true;
        of_pixels.items_per_block = of_pixels.items;
        of_pixels.item_blocks = 1;
        launch_gram_blocks(image, samples * image_grid.parts, of_pixels, device);

        TapSumParams taps;
        taps.pixel_gram = pixel_scratch.data_ptr();
        taps.gram = window_scratch.data_ptr();
        taps.window = w.window;
        taps.window.pixel_stride = 1;  // offsets count pixels
        taps.window.frame_stride =
            pixels / (w.positions.count / static_cast<int64_t>(w.positions.frame.value));
        taps.positions = w.positions;
        taps.pixels = of_pixels.positions.count;
        taps.taps = static_cast<int32_t>(w.size.taps);
        taps.batches = samples * groups;
        check(launch_tap_sum(options.dtype() == at::kDouble, taps, device.stream()));

        const Grid grid = gram_grid(part.size, w.math, device.multiprocessors(), false);
        GramParams of_rows = gram_params(op, part, grid, false);
        of_rows.gram = window_scratch.data_ptr();
        of_rows.load_gram = true;
        of_rows.destination = sums.from(first * w.size.rows);
        launch_gram_blocks(part, grid.blocks, of_rows, device);
    }
}

at::Tensor zeros_like_result(const at::Tensor& like, at::IntArrayRef shape) {
    return at::zeros(shape, like.options().dtype(accumulate_dtype(like.scalar_type())));
}

}  // namespace

Math math_for(at::ScalarType dtype, bool tf32_allowed) {
    switch (dtype) {
        case at::kBFloat16:
            return Math::bf16;
        case at::kHalf:
            return Math::fp16;
        case at::kDouble:
            return Math::fp64;
        default:
            return tf32_allowed ? Math::tf32 : Math::fp32;
    }
}

int32_t narrow(const char* op, const char* what, int64_t value) {
    TORCH_CHECK_VALUE(value <= std::numeric_limits<int32_t>::max(), op, ": ", what, " is ", value,
                      "; wanted less than 2^31");
    return static_cast<int32_t>(value);
}

void finish_operand(Operand& op, const at::Tensor& data, int64_t channels) {
    op.data = data.data_ptr();
    op.channels = Divisor(std::max<int64_t>(1, channels));
    op.copy_bytes = copy_bytes(op.data, channels, op.pixel_stride, static_cast<int>(data.element_size()));
}

at::Tensor sqnorm(const char* op, const WeightGradient& w, std::optional<Form> form) {
    if (w.empty()) return zeros_like_result(w.window_data, {w.size.samples, w.size.rows});
    const DeviceScope device(w.window_data);
    const Form chosen = form.value_or(choose_form(w.size, w.math));
    if (chosen == Form::direct && is_narrow(w.size, w.math)) return depthwise(op, w, Reduction::square);
    const bool is_direct = chosen == Form::direct || chosen == Form::rank_one;
    const Grid grid = is_direct ? direct_grid(w.size, w.math, device.multiprocessors())
                                : gram_grid(w.size, w.math, device.multiprocessors(), false);
    BlockSums sums(w.window_data, {w.size.samples, w.size.rows}, grid.parts);
    if (is_direct) {
        direct(op, w, grid, device, sums);
    } else if (chosen == Form::pixel_gram && w.window.windowed) {
        pixel_gram(op, w, device, sums);
    } else {
        GramParams p = gram_params(op, w, grid, false);
        p.destination = sums.from(0);
        launch_gram_blocks(w, grid.blocks, p, device);
    }
    return sums.finish(device, !is_direct);
}

at::Tensor gram(const char* op, const WeightGradient& w) {
    if (w.empty()) return zeros_like_result(w.window_data, {w.size.samples, w.size.rows, w.size.rows});
    if (is_narrow(w.size, w.math)) return depthwise(op, w, Reduction::gram);
    const DeviceScope device(w.window_data);
    const Grid grid = gram_grid(w.size, w.math, device.multiprocessors(), true);
    BlockSums sums(w.window_data, {w.size.samples, w.size.rows, w.size.rows}, grid.parts);
    GramParams p = gram_params(op, w, grid, true);
    p.destination = sums.from(0);
    launch_gram_blocks(w, grid.blocks, p, device);
    const auto upper = sums.finish(device, false);  // the kernel leaves zeros below the diagonal
    return at::add(upper, at::triu(upper, 1).transpose(1, 2));
}

at::Tensor dot(const char* op, const WeightGradient& w, const at::Tensor& weight) {
    if (w.empty()) return zeros_like_result(w.window_data, {w.size.samples, w.size.rows});
    if (is_narrow(w.size, w.math)) return depthwise(op, w, Reduction::dot, weight);
    const DeviceScope device(w.window_data);
    const Grid grid = dot_grid(w.size, w.math, device.multiprocessors());
    BlockSums sums(w.window_data, {w.size.samples, w.size.rows}, grid.parts);
    DotParams p;
    p.window = w.window;
    p.position = w.position;
    p.positions = w.positions;
    p.weight.width = p.weight.pixel_stride = narrow(op, "the width of ref", w.size.window_width);
    p.weight.group_stride = w.size.position_channels * w.size.window_width;
    finish_operand(p.weight, weight, w.size.window_width);
    p.destination = sums.from(0);
    p.rows = narrow(op, "the number of rows", w.size.rows);
    p.groups = narrow(op, "groups", w.size.groups);
    p.channels = narrow(op, "the number of channels", w.size.position_channels);
    p.rows_per_block = static_cast<int32_t>(grid.items_per_block);
    p.row_blocks = static_cast<int32_t>(grid.item_blocks);
    p.tiles_m = static_cast<int32_t>(grid.tiles_m);
    p.tiles_n = static_cast<int32_t>(grid.tiles_n);
    narrow_parts(op, grid.parts);
    launch_blocks(grid.blocks, p, [&](int64_t blocks, const DotParams& q) {
        return launch_dot(w.math, blocks, q, device.stream());
    });
    return sums.finish(device, false);
}

}  // namespace gradfast::cuda
