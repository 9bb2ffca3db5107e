// conv_input_grad: input gradient of a convolution of stride above one, of all rows.
#include "strided.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "../checks.h"
#include "buffer.h"
#include "empty.h"

namespace gradfast::cpu {
namespace {

constexpr const char* kOp = "conv_input_grad";
constexpr int64_t kPixels = 128;  // of a phase that the weights are read for at a time, at least

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// One direction of the phases. Pixel `first + stride * j` is reached by the taps `phase + stride * a`, which
// read g at `position + j - a`.
struct PhaseLine {
    int64_t first, pixels, position, phase, taps;
};

std::vector<PhaseLine> phase_lines(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    std::vector<PhaseLine> lines;
    for (int64_t phase = 0; phase < stride; ++phase) {
        const int64_t first = ((phase - padding) % stride + stride) % stride;
        if (first >= size) continue;
        lines.push_back({first, ceil_div(size - first, stride), (first + padding - phase) / stride, phase,
                         std::max<int64_t>(0, ceil_div(kernel - phase, stride))});
    }
    return lines;
}

// Zeros that the taps need before and behind `extent` positions.
std::array<int64_t, 2> margins(const std::vector<PhaseLine>& lines, int64_t extent) {
    int64_t front = 0, back = 0;
    for (const PhaseLine& line : lines) {
        if (line.taps == 0) continue;
        front = std::max(front, line.taps - 1 - line.position);
        back = std::max(back, line.position + line.pixels - extent);
    }
    return {front, back};
}

// The lists that a StridedPhase points to.
struct PhaseLists {
    std::vector<int64_t> tap_weight, tap_from, from, to;
    StridedPhase view() const {
        return {static_cast<int64_t>(tap_weight.size()), tap_weight.data(), tap_from.data(),
                static_cast<int64_t>(from.size()),       from.data(),       to.data()};
    }
};

PhaseLists phase_lists(const PhaseLine& y, const PhaseLine& x, const at::Tensor& weight, int64_t stride_y,
                       int64_t stride_x, const PaddedImages& padded, int64_t width, int64_t in_channels) {
    PhaseLists lists;
    for (int64_t a = 0; a < y.taps; ++a)
        for (int64_t b = 0; b < x.taps; ++b) {
            lists.tap_weight.push_back((y.phase + stride_y * a) * weight.stride(2) +
                                       (x.phase + stride_x * b) * weight.stride(3));
            lists.tap_from.push_back(-(a * padded.width + b) * padded.units);
        }
    // Without a tap nothing is read, so any position serves.
    const bool reads = !lists.tap_weight.empty();
    for (int64_t j = 0; j < y.pixels; ++j)
        for (int64_t i = 0; i < x.pixels; ++i) {
            const int64_t position = (y.position + j) * padded.width + x.position + i;
            lists.from.push_back(reads ? padded.first + position * padded.units : 0);
            lists.to.push_back(((y.first + stride_y * j) * width + x.first + stride_x * i) * in_channels);
        }
    return lists;
}

void run(const StridedProblem& problem, const std::vector<PhaseLists>& phases, PaddedImages padded) {
    const int64_t panel = GRADFAST_SIMD(strided_panel)(), panels = ceil_div(problem.in_channels, panel);
    const int64_t unit_bytes = sizeof(float);  // also of a pair of bf16

    std::vector<int64_t> offset{0};  // of the weights of each phase and panel, in bytes
    for (const PhaseLists& phase : phases)
        for (int64_t p = 0; p < panels; ++p)
            offset.push_back(offset.back() + static_cast<int64_t>(phase.tap_weight.size()) * padded.units *
                                                 panel * unit_bytes);
    Buffer weights;
    char* packed = static_cast<char*>(weights.bytes(std::max<int64_t>(offset.back(), 1)));
    const auto pack = GRADFAST_SIMD(strided_pack);
    at::parallel_for(0, static_cast<int64_t>(offset.size()) - 1, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            pack(problem, phases[i / panels].view(), padded.units, i % panels * panel, packed + offset[i]);
    });

    const int64_t positions = problem.g_height * problem.g_width, threads = at::get_num_threads();
    const int64_t group =
        std::clamp(ceil_div(kPixels, positions), int64_t{1}, ceil_div(problem.images, threads));
    const auto pad = GRADFAST_SIMD(strided_pad);
    const auto products = GRADFAST_SIMD(strided_products);
    at::parallel_for(0, ceil_div(problem.images, group), 1, [&](int64_t begin, int64_t end) {
        Buffer images;
        PaddedImages own = padded;
        own.data = images.bytes(group * padded.image_units() * unit_bytes, /*zero=*/true);
        for (int64_t first = begin * group; first < std::min(end * group, problem.images); first += group) {
            const int64_t count = std::min(group, problem.images - first);
            for (int64_t image = 0; image < count; ++image) pad(problem, first + image, own, image);
            for (std::size_t i = 0; i < phases.size(); ++i)
                for (int64_t p = 0; p < panels; ++p)
                    products(problem, phases[i].view(), own, first, count, p * panel,
                             packed + offset[i * panels + p]);
        }
    });
}

// Arguments: see gradfast/ops_backward.py.
at::Tensor conv_input_grad(const at::Tensor& g_in, const at::Tensor& weight, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef size) {
    check_operand(kOp, "g", g_in, 5);
    check_operand(kOp, "weight", weight, 4);
    TORCH_CHECK_TYPE(g_in.scalar_type() == at::kFloat || g_in.scalar_type() == at::kBFloat16, kOp,
                     ": g has dtype ", g_in.scalar_type(), "; wanted float32 or bfloat16");
    check_same(kOp, "g", g_in, "weight", weight);
    const int64_t rows = g_in.size(0), batch = g_in.size(1), out_channels = g_in.size(2),
                  in_channels = weight.size(1);
    TORCH_CHECK_VALUE(weight.size(0) == out_channels, kOp, ": weight has shape ", weight.sizes(),
                      "; wanted [", out_channels, ", I, h, w], for g has shape ", g_in.sizes());
    TORCH_CHECK_VALUE(stride.size() == 2 && padding.size() == 2 && size.size() == 2, kOp,
                      ": wanted two numbers each for stride, padding and size");
    for (int d = 0; d < 2; ++d) {
        const int64_t kernel = weight.size(2 + d);
        TORCH_CHECK_VALUE(stride[d] > 0 && padding[d] >= 0 && kernel > 0, kOp, ": got stride ", stride,
                          ", padding ", padding, " and a kernel of ", weight.sizes().slice(2),
                          "; wanted positive ones");
        const int64_t span = size[d] + 2 * padding[d] - kernel;
        TORCH_CHECK_VALUE(span >= 0 && span / stride[d] + 1 == g_in.size(3 + d), kOp, ": g has shape ",
                          g_in.sizes(), ", which is not what a kernel of ", weight.sizes().slice(2),
                          " with stride ", stride, " and padding ", padding, " makes of ", size);
    }

    const at::Tensor dx = empty({rows, batch, size[0], size[1], in_channels}, g_in.options());
    if (g_in.numel() == 0) dx.zero_();
    if (g_in.numel() == 0 || dx.numel() == 0) return dx.permute({0, 1, 4, 2, 3});

    // [images, O, H, W], channels last; copied only where the rows and samples are not evenly apart.
    at::Tensor g = g_in.flatten(0, 1);
    if (g.stride(1) != 1 && out_channels > 1) g = g.movedim(1, -1).contiguous().movedim(-1, 1);

    StridedProblem problem{};
    problem.images = rows * batch;
    problem.out_channels = out_channels;
    problem.in_channels = in_channels;
    problem.g_height = g.size(2);
    problem.g_width = g.size(3);
    problem.storage = g.scalar_type() == at::kFloat ? Storage::f32 : Storage::bf16;
    problem.g = g.const_data_ptr();
    problem.g_image = g.stride(0);
    problem.g_y = g.stride(2);
    problem.g_x = g.stride(3);
    problem.weight = weight.const_data_ptr();
    problem.w_o = weight.stride(0);
    problem.w_i = weight.stride(1);
    problem.dx = dx.mutable_data_ptr();
    problem.dx_image = size[0] * size[1] * in_channels;

    const auto y = phase_lines(size[0], weight.size(2), stride[0], padding[0]);
    const auto x = phase_lines(size[1], weight.size(3), stride[1], padding[1]);
    const auto [top, bottom] = margins(y, problem.g_height);
    const auto [left, right] = margins(x, problem.g_width);
    PaddedImages padded{};
    padded.height = top + problem.g_height + bottom;
    padded.width = left + problem.g_width + right;
    padded.units = ceil_div(out_channels, GRADFAST_SIMD(strided_unit)(problem.storage));
    padded.first = (top * padded.width + left) * padded.units;

    std::vector<PhaseLists> phases;
    for (const PhaseLine& line_y : y)
        for (const PhaseLine& line_x : x)
            phases.push_back(
                phase_lists(line_y, line_x, weight, stride[0], stride[1], padded, size[1], in_channels));
    run(problem, phases, padded);
    return dx.permute({0, 1, 4, 2, 3});
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("conv_input_grad", conv_input_grad);
}

}  // namespace gradfast::cpu
