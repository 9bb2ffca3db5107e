// depthwise.cu: channels alone and in pairs, several blocks of columns and channels, the positions split.
#include "../../../csrc/cuda/kernels/depthwise.h"

#include "driver.h"

using namespace driver;

namespace {

// g [rows, samples, length, channels] and x [samples, length, channels], one dimension, taps with padding in
// front.
template <class Element>
void depthwise(const char* what, ElementType type, bool paired, int64_t channels, int taps,
               double tolerance) {
    const int64_t rows = 5, samples = 2, length = 70;
    const Data<Element> x(samples * length * channels, 1), g(rows * samples * length * channels, 2);
    DepthwiseParams p;
    p.positions.count = static_cast<int32_t>(length);
    p.positions.frame = p.positions.plane = p.positions.line = Divisor(length);
    p.position.data = g.element.get();
    p.position.row_stride = samples * length * channels;
    p.position.sample_stride = p.window.sample_stride = length * channels;
    p.position.pixel_stride = p.window.pixel_stride = static_cast<int32_t>(channels);
    p.position.width = 1;
    p.window.data = x.element.get();
    p.window.group_stride = 1;
    p.window.width = taps;
    p.window.kernel_plane = p.window.kernel_line = Divisor(taps);
    p.window.extent[2] = static_cast<int32_t>(length);
    p.window.padding[2] = taps / 2;
    p.window.windowed = true;
    p.samples = samples;
    p.rows = rows;
    p.channels = static_cast<int32_t>(channels);
    p.columns = taps;
    p.splits = 2;
    p.positions_per_split = 40;
    const DepthwiseExtent e = depthwise_extent(type, paired, channels);
    p.row_blocks = tiles(rows, e.rows);
    p.channel_blocks = tiles(channels, e.channels);
    p.column_blocks = tiles(taps, e.columns);
    const int64_t size = rows * samples * taps * channels;  // of one split
    std::unique_ptr<float[]> gradients(new float[2 * size]);
    p.gradients = gradients.get();
    expect(what, launch_depthwise(type, paired, p, nullptr));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t b = 0; b < samples; ++b)
            for (int64_t tap = 0; tap < taps; ++tap)
                for (int64_t c = 0; c < channels; ++c) {
                    double wanted = 0, scale = 1;
                    for (int64_t t = 0; t < length; ++t) {
                        const int64_t u = t + tap - taps / 2;
                        if (u < 0 || u >= length) continue;
                        const double product = g.value[((r * samples + b) * length + t) * channels + c] *
                                               x.value[(b * length + u) * channels + c];
                        wanted += product;
                        scale += std::abs(product);
                    }
                    const int64_t i = ((r * samples + b) * taps + tap) * channels + c;
                    expect_close(what, gradients[i] + gradients[size + i], wanted, scale, tolerance);
                }
}

}  // namespace

int main() {
    depthwise<__nv_bfloat16>("pairs", ElementType::bf16, true, 70, 3, 1e-5);
    depthwise<__half>("alone", ElementType::f16, false, 7, 11, 1e-5);
    depthwise<float>("fp32", ElementType::f32, true, 12, 9, 1e-5);
    std::puts("depthwise: ok");
}
