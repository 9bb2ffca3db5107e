// The fused pointwise pass of the backward plan: an activation's gate on the cotangents of all rows, and the
// sums over positions that are the gradients of the affine layers (BatchNorm in eval) in front of it.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

// g [R, B, T, O], gate [B, T, O] or none, x [B, T, O] each, mean, rstd and factor [O] each. With v the gated
// g: v itself if `plain` (else empty), sums over T of v and of v * (x - mean) * rstd for each x, [1 + n, R,
// B, O], and v * factor for each factor.
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gate_backward(
    const at::Tensor& g_in, const std::optional<at::Tensor>& gate_in, bool multiply, at::TensorList xs,
    at::TensorList means, at::TensorList rstds, at::TensorList factors, bool plain,
    const std::optional<at::Tensor>& other) {
    const char* op = "gate_backward";
    check_operand(op, "g", g_in, 4);
    TORCH_CHECK_VALUE(xs.size() <= kMaxAffine && means.size() == xs.size() && rstds.size() == xs.size() &&
                          (factors.empty() || factors.size() == xs.size()),
                      op, ": got ", xs.size(), " xs, ", means.size(), " means, ", rstds.size(), " rstds and ",
                      factors.size(), " factors; wanted equally many, at most ", kMaxAffine);
    if (other) {
        check_same(op, "g", g_in, "other", *other);
        check_shape(op, "other", *other, g_in.sizes());
    }
    const at::Tensor g = (other ? g_in + *other : g_in).contiguous();
    const auto accumulator = g.options().dtype(accumulate_dtype(g.scalar_type()));
    std::vector<at::Tensor> kept;  // what the parameters point into
    bool vectorized = chunks_aligned(g);
    const auto input = [&](const char* name, const at::Tensor& t) {
        check_same(op, "g", g, name, t);
        check_shape(op, name, t, g.sizes().slice(1));
        kept.push_back(t.contiguous());
        vectorized = vectorized && chunks_aligned(kept.back());
        return kept.back().data_ptr();
    };
    const auto vector = [&](const char* name, const at::Tensor& t) {
        check_shape(op, name, t, {g.size(3)});
        kept.push_back(t.to(accumulator).contiguous());
        return kept.back().data_ptr();
    };

    ChannelParams p;
    p.g = g.data_ptr();
    if (gate_in) p.gate = input("gate", *gate_in);
    p.multiply = multiply;
    p.affine = static_cast<int32_t>(xs.size());
    const at::Tensor out = plain ? at::empty_like(g) : at::empty({0}, g.options());
    if (plain) p.out = out.data_ptr();
    std::vector<at::Tensor> scaled;
    for (size_t k = 0; k < xs.size(); ++k) {
        p.x[k] = input("xs", xs[k]);
        p.mean[k] = vector("means", means[k]);
        p.rstd[k] = vector("rstds", rstds[k]);
        if (factors.empty()) continue;
        p.factor[k] = vector("factors", factors[k]);
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
