// channel.cu, sum.cu: the fused gate, planes, norms of the sums, rank one.
#include "../../../csrc/cuda/kernels/channel.h"

#include "driver.h"

using namespace driver;

namespace {

void gate(bool vectorized) {
    const int64_t rows = 3, samples = 1, positions = 90, channels = vectorized ? 40 : 5;
    const Data<__nv_bfloat16> g(rows * positions * channels, 1), mask(positions * channels, 2),
        x(positions * channels, 3);
    const Data<float> mean(channels, 4), rstd(channels, 5), factor(channels, 6);
    std::unique_ptr<__nv_bfloat16[]> out(new __nv_bfloat16[rows * positions * channels]);
    std::unique_ptr<__nv_bfloat16[]> scaled(new __nv_bfloat16[rows * positions * channels]);
    ChannelParams p;
    p.g = g.element.get();
    p.gate = mask.element.get();
    p.affine = 1;
    p.x[0] = x.element.get();
    p.mean[0] = mean.element.get();
    p.rstd[0] = rstd.element.get();
    p.factor[0] = factor.element.get();
    p.scaled[0] = scaled.get();
    p.out = out.get();
    p.samples = samples;
    p.positions = positions;
    p.rows = rows;
    p.channels = static_cast<int32_t>(channels);
    p.splits = 2;
    p.positions_per_split = 45;
    const ChannelExtent e = channel_extent(ElementType::bf16, 1, vectorized, channels);
    p.row_blocks = tiles(rows, e.rows);
    p.channel_blocks = tiles(channels, e.channels);
    const int64_t size = 2 * rows * samples * channels;  // of one split
    std::unique_ptr<float[]> sums(new float[2 * size]);
    p.sums = sums.get();
    expect("gate", launch_channel_sums(ElementType::bf16, vectorized, p, nullptr));
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < channels; ++o) {
            double bias = 0, scale = 0, largest = 1;
            for (int64_t t = 0; t < positions; ++t) {
                const int64_t at = t * channels + o, at_row = r * positions * channels + at;
                const double v = mask.value[at] > 0 ? g.value[at_row] : 0;
                bias += v;
                scale += v * (x.value[at] - mean.value[o]) * rstd.value[o];
                largest += std::abs(v * (x.value[at] - mean.value[o]) * rstd.value[o]);
                expect_close("gated", static_cast<float>(out[at_row]), v, 1, 1e-6);
                expect_close("scaled", static_cast<float>(scaled[at_row]), v * factor.value[o], 1, 0.02);
            }
            const int64_t i = r * channels + o;
            expect_close("bias", sums[i] + sums[size + i], bias, largest);
            const int64_t j = rows * channels + i;
            expect_close("scale", sums[j] + sums[size + j], scale, largest);
        }
}

void planes_and_norms() {
    const int64_t rows = 2, samples = 3, channels = 5, positions = 200;
    const Data<float> g(rows * samples * channels * positions);
    std::unique_ptr<float[]> sums(new float[rows * samples * channels]), out(new float[samples * rows]);
    PlaneParams p;
    p.g = g.element.get();
    p.sums = sums.get();
    p.planes = rows * samples * channels;
    p.planes_of_row = samples * channels;
    p.positions = positions;
    expect("planes", launch_plane_sums(ElementType::f32, p, nullptr));
    ReduceParams q;
    q.sums = sums.get();
    q.out = out.get();
    q.samples = samples;
    q.rows = q.items = rows;
    q.channels = channels;
    expect("norms", launch_reduce(ElementType::f32, q, nullptr));
    for (int64_t b = 0; b < samples; ++b)
        for (int64_t c = 0; c < rows; ++c) {
            double wanted = 0;
            for (int64_t o = 0; o < channels; ++o) {
                double sum = 0;
                for (int64_t t = 0; t < positions; ++t)
                    sum += g.value[((c * samples + b) * channels + o) * positions + t];
                wanted += sum * sum;
            }
            expect_close("norms", out[b * rows + c], wanted, positions * channels);
        }
}

void rank_one() {
    const int64_t rows = 5, samples = 2, inputs = 150, outputs = 70;
    const Data<__half> x(samples * inputs, 1), g(rows * samples * outputs, 2);
    std::unique_ptr<float[]> out(new float[samples * rows]);
    RankOneParams p;
    p.x = x.element.get();
    p.g = g.element.get();
    p.out = out.get();
    p.samples = samples;
    p.inputs = inputs;
    p.outputs = outputs;
    p.rows = rows;
    p.row_blocks = tiles(rows, kRankOneRows);
    expect("rank one", launch_rank_one(ElementType::f16, p, nullptr));
    for (int64_t b = 0; b < samples; ++b)
        for (int64_t c = 0; c < rows; ++c) {
            double of_x = 0, of_g = 0;
            for (int64_t i = 0; i < inputs; ++i) of_x += std::pow(x.value[b * inputs + i], 2);
            for (int64_t i = 0; i < outputs; ++i)
                of_g += std::pow(g.value[(c * samples + b) * outputs + i], 2);
            expect_close("rank one", out[b * rows + c], of_x * of_g, of_x * of_g);
        }
}

void sum() {
    const int64_t count = 6, parts = 100;
    const Data<float> partial(count * parts);
    std::unique_ptr<float[]> out(new float[count]);
    SumParams p;
    p.partial = partial.element.get();
    p.out = out.get();
    p.count = count;
    p.parts = parts;
    p.clamp = true;
    expect("sum", launch_sum(false, p, nullptr));
    for (int64_t i = 0; i < count; ++i) {
        double wanted = 0;
        for (int64_t j = 0; j < parts; ++j) wanted += partial.value[i * parts + j];
        expect_close("sum", out[i], std::max(0.0, wanted), parts);
    }
}

}  // namespace

int main() {
    gate(true);
    gate(false);
    planes_and_norms();
    rank_one();
    sum();
    std::puts("channel: ok");
}
