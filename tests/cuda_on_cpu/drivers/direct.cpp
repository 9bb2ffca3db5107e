// direct.cu: both tiles, resident and streamed, vectorized and element by element, plain and windowed.
#include "driver.h"

using namespace driver;

namespace {

template <class Element>
void linear(const char* what, Math math, Tile tile, const Linear<Element>& problem, int32_t rows_per_block,
            double tolerance = 1e-4) {
    const TileExtent e = direct_tile(math, tile);
    std::unique_ptr<float[]> out(new float[problem.samples * problem.rows]());
    DirectParams p;
    p.position = problem.position();
    p.window = problem.window();
    p.positions = problem.positions();
    p.destination.out = out.get();
    p.rows = static_cast<int32_t>(problem.rows);
    p.groups = 1;
    p.rows_per_block = rows_per_block;
    p.row_blocks = tiles(problem.rows, rows_per_block);
    p.tiles_m = tiles(problem.o, e.m);
    p.tiles_n = tiles(problem.d, e.n);
    p.resident = tiles(problem.t, e.k) <= e.stages && rows_per_block > 1;
    expect(what,
           launch_direct(math, tile, problem.samples * p.row_blocks * p.tiles_m * p.tiles_n, p, nullptr));
    for (int64_t b = 0; b < problem.samples; ++b)
        for (int64_t c = 0; c < problem.rows; ++c) {
            const auto gradient = problem.gradient(c, b);
            const double wanted = inner(gradient, gradient);
            expect_close(what, out[b * problem.rows + c], wanted, wanted, tolerance);
        }
}

// A 3x3 convolution with padding of one 5x4 image of 8 channels, all ones: counted by hand.
void windowed() {
    constexpr int kHeight = 5, kWidth = 4, kChannels = 8;
    std::unique_ptr<__nv_bfloat16[]> x(new __nv_bfloat16[kHeight * kWidth * kChannels]);
    std::unique_ptr<__nv_bfloat16[]> g(new __nv_bfloat16[kHeight * kWidth * kChannels]);
    for (int i = 0; i < kHeight * kWidth * kChannels; ++i) x[i] = g[i] = __float2bfloat16(1.0f);
    float out = 0;
    DirectParams p;
    p.positions.count = kHeight * kWidth;
    p.positions.frame = p.positions.plane = Divisor(kHeight * kWidth);
    p.positions.line = Divisor(kWidth);
    p.position.data = g.get();
    p.position.pixel_stride = p.position.width = kChannels;
    p.position.copy_bytes = 16;
    p.window = p.position;
    p.window.data = x.get();
    p.window.width = 9 * kChannels;
    p.window.channels = Divisor(kChannels);
    p.window.kernel_plane = Divisor(9);
    p.window.kernel_line = Divisor(3);
    p.window.extent[1] = kHeight;
    p.window.extent[2] = kWidth;
    p.window.padding[1] = p.window.padding[2] = 1;
    p.window.windowed = true;
    p.destination.out = &out;
    p.rows = p.groups = p.row_blocks = p.tiles_m = 1;
    p.tiles_n = 2;
    expect("windowed", launch_direct(Math::bf16, Tile::small, 2, p, nullptr));
    double wanted = 0;  // tap (i, j) meets (5 - |i|)(4 - |j|) pixels
    for (int i = -1; i <= 1; ++i)
        for (int j = -1; j <= 1; ++j) {
            const double met = (kHeight - std::abs(i)) * (kWidth - std::abs(j));
            wanted += kChannels * kChannels * met * met;
        }
    expect_close("windowed", out, wanted, wanted);
}

}  // namespace

int main() {
    linear("streamed", Math::bf16, Tile::small, Linear<__nv_bfloat16>(2, 1, 200, 72, 24), 1);
    linear("resident", Math::bf16, Tile::small, Linear<__nv_bfloat16>(5, 1, 50, 16, 40), 3);
    linear("large", Math::fp16, Tile::large, Linear<__half>(1, 1, 40, 136, 24), 1);
    linear("elements", Math::fp16, Tile::small, Linear<__half>(2, 1, 9, 7, 5), 2);
    linear("pieces", Math::bf16, Tile::small, Linear<__nv_bfloat16>(2, 1, 90, 26, 14), 2);
    linear("tf32", Math::tf32, Tile::small, Linear<float>(1, 1, 40, 20, 12), 1, 4e-3);
    linear("fp32", Math::fp32, Tile::small, Linear<float>(2, 1, 70, 12, 20), 1);
    windowed();
    std::puts("direct: ok");
}
