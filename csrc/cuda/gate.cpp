// The fused pointwise pass of the backward plan: an activation's gate on the cotangents of all rows, and the
// sums over positions that are the gradients of the affine layers (BatchNorm in eval) in front of it.
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "../gate_args.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

// g and other (or none) [R, B, T, O], gate [B, T, O] or none, x [B, T, O] each, mean, rstd and factor [O]
// each. With v the gated g + other: v itself if `plain` (else empty), sums over T of v and of v * (x - mean)
// * rstd for each x, [1 + n, R, B, O], and v * factor for each factor.
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gate_backward(
    const at::Tensor& g_in, const std::optional<at::Tensor>& gate_in, bool multiply, at::TensorList xs,
    at::TensorList means, at::TensorList rstds, at::TensorList factors, bool plain,
    const std::optional<at::Tensor>& other) {
    check_gate(g_in, gate_in, xs, means, rstds, factors, other, kMaxAffine);
    const at::Tensor g = (other ? at::add(g_in, *other) : g_in).contiguous();
    const auto accumulator = g.options().dtype(accumulate_dtype(g.scalar_type()));
    std::vector<at::Tensor> kept;  // what the parameters point into
    bool vectorized = chunks_aligned(g);
    const auto input = [&](const at::Tensor& t) {
        kept.push_back(t.contiguous());
        vectorized = vectorized && chunks_aligned(kept.back());
        return kept.back().data_ptr();
    };
    const auto vector = [&](const at::Tensor& t) {
        kept.push_back(t.to(accumulator).contiguous());
        return kept.back().data_ptr();
    };

    ChannelParams p;
    p.g = g.data_ptr();
    if (gate_in) p.gate = input(*gate_in);
    p.multiply = multiply;
    p.affine = static_cast<int32_t>(xs.size());
    const at::Tensor out = plain ? at::empty_like(g) : at::empty({0}, g.options());
    if (plain) p.out = out.data_ptr();
    std::vector<at::Tensor> scaled;
    for (size_t k = 0; k < xs.size(); ++k) {
        p.x[k] = input(xs[k]);
        p.mean[k] = vector(means[k]);
        p.rstd[k] = vector(rstds[k]);
        if (factors.empty()) continue;
        p.factor[k] = vector(factors[k]);
        scaled.push_back(at::empty_like(g));
        p.scaled[k] = scaled.back().data_ptr();
    }
    const int64_t sums = 1 + static_cast<int64_t>(xs.size());
    if (g.numel() == 0) return {out, at::zeros({sums, g.size(0), g.size(1), g.size(3)}, accumulator), scaled};

    const DeviceScope device(g);
    p.rows = static_cast<int32_t>(g.size(0));
    p.samples = g.size(1);
    p.positions = g.size(2);
    p.channels = static_cast<int32_t>(g.size(3));
    const auto type = element_type(g.scalar_type());
    plan_channel_sums(p, type, vectorized, device.multiprocessors());
    const at::Tensor parts = at::empty({p.splits, sums, p.rows, p.samples, p.channels}, accumulator);
    p.sums = parts.data_ptr();
    check(launch_channel_sums(type, vectorized, p, device.stream()));
    return {out, p.splits == 1 ? parts.squeeze(0) : at::sum(parts, {0}), scaled};
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("gate_backward", gate_backward);
}

}  // namespace gradfast::cuda
