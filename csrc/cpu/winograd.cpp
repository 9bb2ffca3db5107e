// conv3x3_backward: input gradient and squared norms of the weight gradient, of all rows, by Winograd.
#include "winograd.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "../checks.h"
#include "buffer.h"
#include "empty.h"

namespace gradfast::cpu {
namespace {

constexpr const char* kOp = "conv3x3_backward";

// Channels, at `dim`, with stride 1.
at::Tensor channels_dense(const at::Tensor& t, int64_t dim) {
    if (t.stride(dim) == 1 || t.size(dim) == 1) return t;
    return t.movedim(dim, -1).contiguous().movedim(-1, dim);
}

float* floats(Buffer& buffer, int64_t count) {
    return static_cast<float*>(buffer.bytes(static_cast<std::size_t>(count) * sizeof(float)));
}

// A thread takes whole groups.
void run_by_group(const WinogradProblem& problem, const WinogradPlan& plan) {
    Buffer weight;
    float* u_w = floats(weight, plan.weight_floats);
    if (problem.need_dx) {
        const auto transform_weight = GRADFAST_SIMD(winograd_transform_weight);
        at::parallel_for(0, problem.out_channels, 16,
                         [&](int64_t begin, int64_t end) { transform_weight(problem, u_w, begin, end); });
    }
    const auto run = GRADFAST_SIMD(winograd_group);
    at::parallel_for(0, plan.groups, 1, [&](int64_t begin, int64_t end) {
        Buffer v, pairs, x, m, dw;
        WinogradBuffers buffers{
            floats(v, plan.v_floats), floats(pairs, plan.v_pairs_floats), u_w, floats(x, plan.x_floats),
            floats(m, plan.m_floats), floats(dw, plan.dw_floats),         -1};
        for (int64_t group = begin; group < end; ++group) run(problem, plan, buffers, group);
    });
}

// All threads share a group; each takes images, then panels of input channels, then images.
void run_by_panel(const WinogradProblem& problem, const WinogradPlan& plan) {
    const auto transform_g = GRADFAST_SIMD(winograd_transform_g);
    const auto run_panels = GRADFAST_SIMD(winograd_panels);
    const auto run_norms = GRADFAST_SIMD(winograd_norms);
    const int64_t all_images = problem.rows * problem.batch;
    Buffer v, pairs;
    const WinogradBuffers shared{
        floats(v, plan.v_floats), floats(pairs, plan.v_pairs_floats), nullptr, nullptr, nullptr, nullptr, -1};
    for (int64_t group = 0; group < plan.groups; ++group) {
        const int64_t images = std::min(plan.images_per_group, all_images - group * plan.images_per_group);
        at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
            WinogradBuffers buffers = shared;
            transform_g(problem, plan, buffers, group, begin, end);
        });
        at::parallel_for(0, plan.panels, 1, [&](int64_t begin, int64_t end) {
            Buffer weight, m;
            WinogradBuffers buffers = shared;
            buffers.u_w = floats(weight, plan.weight_floats);
            buffers.m = floats(m, plan.m_floats);
            run_panels(problem, plan, buffers, group, begin, end);
        });
        if (!problem.need_sq) continue;
        at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
            Buffer x, dw;
            WinogradBuffers buffers = shared;
            buffers.u_x = floats(x, plan.x_floats);
            buffers.dw = floats(dw, plan.dw_floats);
            run_norms(problem, plan, buffers, group, begin, end);
        });
    }
}

void run(const WinogradProblem& problem) {
    const WinogradPlan plan = GRADFAST_SIMD(winograd_plan)(problem, at::get_num_threads());
    if (plan.by_panel)
        run_by_panel(problem, plan);
    else
        run_by_group(problem, plan);
}

// g, mask and scale: see gradfast/ops_conv3x3.py.
std::tuple<at::Tensor, at::Tensor> conv3x3_backward(const at::Tensor& g_in, const at::Tensor& weight,
                                                    const std::optional<at::Tensor>& x_in,
                                                    const std::optional<at::Tensor>& mask_in,
                                                    const std::optional<at::Tensor>& scale_in,
                                                    bool need_input_grad, bool need_sqnorm) {
    check_operand(kOp, "g", g_in, 5);
    check_operand(kOp, "weight", weight, 4);
    TORCH_CHECK_TYPE(g_in.scalar_type() == at::kFloat || g_in.scalar_type() == at::kBFloat16, kOp,
                     ": g has dtype ", g_in.scalar_type(), "; wanted float32 or bfloat16");
    const int64_t rows = g_in.size(0), batch = g_in.size(1), out_channels = g_in.size(2),
                  height = g_in.size(3), width = g_in.size(4), in_channels = weight.size(1);
    check_same(kOp, "g", g_in, "weight", weight);
    check_shape(kOp, "weight", weight, {out_channels, in_channels, 3, 3});
    TORCH_CHECK_VALUE(x_in || !need_sqnorm, kOp, ": x is None; wanted a tensor, as need_sqnorm is true");

    const at::Tensor g = channels_dense(g_in, 2);
    at::Tensor x, mask, scale;
    if (x_in && need_sqnorm) {
        check_operand(kOp, "x", *x_in, 4);
        check_same(kOp, "g", g_in, "x", *x_in);
        check_shape(kOp, "x", *x_in, {batch, in_channels, height, width});
        x = channels_dense(*x_in, 1);
    }
    if (mask_in) {
        check_operand(kOp, "mask", *mask_in, 4);
        check_same(kOp, "g", g_in, "mask", *mask_in);
        check_shape(kOp, "mask", *mask_in, {batch, out_channels, height, width});
        mask = channels_dense(*mask_in, 1);
    }
    if (scale_in) {
        TORCH_CHECK_TYPE(scale_in->scalar_type() == at::kFloat, kOp, ": scale has dtype ",
                         scale_in->scalar_type(), "; wanted float32");
        check_shape(kOp, "scale", *scale_in, {out_channels});
        scale = scale_in->contiguous();
    }

    const at::Tensor dx = empty({need_input_grad ? rows : 0, batch, height, width, in_channels}, g.options());
    const at::Tensor sq = at::zeros({batch, need_sqnorm ? rows : 0}, g.options().dtype(at::kFloat));
    if (g.numel() == 0 || in_channels == 0) {
        dx.zero_();
        return {dx.permute({0, 1, 4, 2, 3}), sq};
    }
    const at::Tensor zeros = at::zeros({out_channels}, g.options());

    WinogradProblem problem{};
    problem.rows = rows;
    problem.batch = batch;
    problem.out_channels = out_channels;
    problem.in_channels = in_channels;
    problem.height = height;
    problem.width = width;
    problem.storage = g.scalar_type() == at::kFloat ? Storage::f32 : Storage::bf16;
    problem.need_dx = need_input_grad;
    problem.need_sq = need_sqnorm;
    problem.g = g.const_data_ptr();
    problem.g_row = g.stride(0);
    problem.g_sample = g.stride(1);
    problem.g_y = g.stride(3);
    problem.g_x = g.stride(4);
    if (mask.defined()) {
        problem.mask = mask.const_data_ptr();
        problem.mask_sample = mask.stride(0);
        problem.mask_y = mask.stride(2);
        problem.mask_x = mask.stride(3);
    }
    if (scale.defined()) problem.scale = scale.const_data_ptr<float>();
    if (x.defined()) {
        problem.x = x.const_data_ptr();
        problem.x_sample = x.stride(0);
        problem.x_y = x.stride(2);
        problem.x_x = x.stride(3);
    }
    problem.weight = weight.const_data_ptr();
    problem.w_o = weight.stride(0);
    problem.w_i = weight.stride(1);
    problem.w_y = weight.stride(2);
    problem.w_x = weight.stride(3);
    problem.zeros = zeros.const_data_ptr();
    problem.dx = dx.mutable_data_ptr();
    problem.sq = sq.mutable_data_ptr<float>();
    run(problem);
    return {dx.permute({0, 1, 4, 2, 3}), sq};
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("conv3x3_backward", conv3x3_backward);
}

}  // namespace gradfast::cpu
