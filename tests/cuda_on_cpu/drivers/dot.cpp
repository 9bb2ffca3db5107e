// dot.cu: shared and rowwise windows.
#include "driver.h"

using namespace driver;

namespace {

template <class Element>
void dots(const char* what, Math math, const Linear<Element>& problem) {
    const TileExtent e = dot_tile(math);
    const Data<Element> reference(problem.o * problem.d, 3);
    std::unique_ptr<float[]> out(new float[problem.samples * problem.rows]());
    DotParams p;
    p.window = problem.window();
    p.position = problem.position();
    p.positions = problem.positions();
    p.weight = problem.window();
    p.weight.data = reference.element.get();
    p.weight.sample_stride = 0;
    p.destination.out = out.get();
    p.rows = static_cast<int32_t>(problem.rows);
    p.groups = 1;
    p.channels = static_cast<int32_t>(problem.o);
    p.rows_per_block = 2;
    p.row_blocks = tiles(problem.rows, 2);
    p.tiles_m = tiles(problem.t, e.m);
    p.tiles_n = tiles(problem.o, e.n);
    expect(what, launch_dot(math, problem.samples * p.row_blocks * p.tiles_m * p.tiles_n, p, nullptr));
    for (int64_t b = 0; b < problem.samples; ++b)
        for (int64_t c = 0; c < problem.rows; ++c) {
            const auto gradient = problem.gradient(c, b);
            const double scale =
                std::sqrt(inner(gradient, gradient) * inner(reference.value, reference.value));
            expect_close(what, out[b * problem.rows + c], inner(gradient, reference.value), scale);
        }
}

}  // namespace

int main() {
    dots("bf16", Math::bf16, Linear<__nv_bfloat16>(3, 1, 70, 200, 72));
    dots("elements", Math::fp16, Linear<__half>(2, 1, 9, 7, 5));
    dots("fp32", Math::fp32, Linear<float>(2, 1, 70, 60, 12));
    std::puts("dot: ok");
}
