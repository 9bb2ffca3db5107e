// gram.cu: tiles on and above the diagonal, pairs of rows, the Gram matrix stored and loaded, sums over taps.
#include "driver.h"

using namespace driver;

namespace {

template <class Element>
GramParams params(const Linear<Element>& problem, Math math, int32_t items, int32_t items_per_block,
                  bool cross) {
    GramParams p;
    p.shared = problem.window();
    p.rowwise = problem.position();
    p.positions = problem.positions();
    p.rows = static_cast<int32_t>(problem.rows);
    p.groups = 1;
    p.items = items;
    p.items_per_block = items_per_block;
    p.item_blocks = tiles(items, items_per_block);
    p.tiles = tiles(problem.t, gram_tile(math).m);
    p.tile_pairs = cross ? p.tiles * p.tiles : p.tiles * (p.tiles + 1) / 2;
    p.cross = cross;
    return p;
}

template <class Element>
void norms(const char* what, Math math, const Linear<Element>& problem, double tolerance = 1e-4) {
    std::unique_ptr<float[]> out(new float[problem.samples * problem.rows]());
    GramParams p = params(problem, math, static_cast<int32_t>(problem.rows), 2, false);
    p.destination.out = out.get();
    expect(what, launch_gram(math, problem.samples * p.item_blocks * p.tile_pairs, p, nullptr));
    for (int64_t b = 0; b < problem.samples; ++b)
        for (int64_t c = 0; c < problem.rows; ++c) {
            const auto gradient = problem.gradient(c, b);
            const double wanted = inner(gradient, gradient);
            expect_close(what, out[b * problem.rows + c], wanted, wanted, tolerance);
        }
}

void cross() {
    const Linear<__nv_bfloat16> problem(3, 1, 70, 16, 24);
    const auto rows = problem.rows;
    std::unique_ptr<float[]> out(new float[rows * rows]());
    GramParams p = params(problem, Math::bf16, 6, 4, true);
    p.destination.out = out.get();
    expect("cross", launch_gram(Math::bf16, p.item_blocks * p.tile_pairs, p, nullptr));
    for (int64_t c = 0; c < rows; ++c)
        for (int64_t d = c; d < rows; ++d) {
            const auto left = problem.gradient(c, 0), right = problem.gradient(d, 0);
            expect_close("cross", out[c * rows + d], inner(left, right),
                         std::sqrt(inner(left, left) * inner(right, right)));
        }
}

void stored() {
    const Linear<float> problem(2, 1, 70, 10, 12);
    const int64_t t = problem.t;
    std::unique_ptr<float[]> gram(new float[t * t]), summed(new float[t * t]), out(new float[2]());
    GramParams p = params(problem, Math::fp32, 2, 2, false);
    p.gram = gram.get();
    p.store_gram = true;
    expect("stored", launch_gram(Math::fp32, p.tile_pairs, p, nullptr));
    TapSumParams taps;  // one tap: a copy
    taps.pixel_gram = gram.get();
    taps.gram = summed.get();
    taps.window.windowed = true;
    taps.window.pixel_stride = 1;
    taps.window.extent[2] = static_cast<int32_t>(t);
    taps.positions = problem.positions();
    taps.positions.frame = taps.positions.plane = taps.positions.line = Divisor(t);
    taps.pixels = static_cast<int32_t>(t);
    taps.taps = 1;
    taps.batches = 1;
    expect("tap sum", launch_tap_sum(false, taps, nullptr));
    p.store_gram = false;
    p.load_gram = true;
    p.gram = summed.get();
    p.destination.out = out.get();
    expect("loaded", launch_gram(Math::fp32, p.tile_pairs, p, nullptr));
    for (int64_t c = 0; c < 2; ++c) {
        const auto gradient = problem.gradient(c, 0);
        expect_close("loaded", out[c], inner(gradient, gradient), inner(gradient, gradient));
    }
}

}  // namespace

int main() {
    norms("bf16", Math::bf16, Linear<__nv_bfloat16>(3, 1, 70, 200, 40));
    norms("elements", Math::fp16, Linear<__half>(2, 1, 9, 7, 5));
    norms("tf32", Math::tf32, Linear<float>(2, 1, 20, 20, 12), 4e-3);
    cross();
    stored();
    std::puts("gram: ok");
}
