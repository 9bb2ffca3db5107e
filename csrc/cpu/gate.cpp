// The fused pointwise pass of the backward plan: an activation's gate on the cotangents of all rows, and the
// sums over positions that are the gradients of the affine layers (BatchNorm in eval) in front of it.
#include "simd/gate.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../gate_args.h"
#include "empty.h"

namespace gradfast::cpu {
namespace {

Storage storage_of(const at::Tensor& t) {
    TORCH_CHECK_TYPE(t.scalar_type() != at::kHalf, "gate_backward: g has dtype ", t.scalar_type(),
                     "; wanted float32, float64 or bfloat16");
    if (t.scalar_type() == at::kDouble) return Storage::f64;
    return t.scalar_type() == at::kFloat ? Storage::f32 : Storage::bf16;
}

struct Norm {
    at::Tensor x, mean, rstd, factor;
};

void* address(const at::Tensor& t, int64_t element) {
    return static_cast<char*>(t.data_ptr()) + element * t.element_size();
}

// g and other (or none) [R, B, T, O], gate [B, T, O] or none, x [B, T, O] each, mean, rstd and factor [O]
// each. With v the gated g + other: v itself if `plain` (else empty), sums over T of v and of v * (x - mean)
// * rstd for each x, [1 + n, R, B, O], and v * factor for each factor.
std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> gate_backward(
    const at::Tensor& g_in, const std::optional<at::Tensor>& gate_in, bool multiply, at::TensorList xs,
    at::TensorList means, at::TensorList rstds, at::TensorList factors, bool plain,
    const std::optional<at::Tensor>& other_in) {
    check_gate(g_in, gate_in, xs, means, rstds, factors, other_in, kMaxAffine);
    const at::Tensor g = g_in.contiguous();
    const int64_t rows = g.size(0), batch = g.size(1), positions = g.size(2), channels = g.size(3);
    const auto accumulator = g.options().dtype(accumulate_dtype(g.scalar_type()));
    at::Tensor gate, other;
    if (other_in) other = other_in->contiguous();
    if (gate_in) gate = gate_in->contiguous();
    const at::Tensor out = empty(plain ? g.sizes() : at::IntArrayRef{0}, g.options());
    std::vector<Norm> norms(xs.size());
    std::vector<at::Tensor> scaled;
    for (size_t k = 0; k < xs.size(); ++k) {
        const auto vector = [&](const at::Tensor& t) { return t.to(accumulator.dtype()).contiguous(); };
        norms[k] = {xs[k].contiguous(), vector(means[k]), vector(rstds[k]), {}};
        if (factors.empty()) continue;
        norms[k].factor = vector(factors[k]);
        scaled.push_back(empty(g.sizes(), g.options()));
    }
    at::Tensor sums = at::zeros({static_cast<int64_t>(1 + xs.size()), rows, batch, channels}, accumulator);
    if (g.numel() == 0) return {out, sums, scaled};

    const Storage storage = storage_of(g);
    const int64_t sample = positions * channels;
    const auto kernel = GRADFAST_SIMD(gate_sums);
    // A task is one sample and some of its rows, which share the normalized inputs that are computed for
    // them.
    const int64_t threads = at::get_num_threads();
    const int64_t groups = batch >= 2 * threads ? 1 : std::min(rows, threads);
    const int64_t per_group = (rows + groups - 1) / groups;
    at::parallel_for(0, batch * groups, 1, [&](int64_t begin, int64_t end) {
        std::vector<double> scratch(static_cast<size_t>(gate_scratch(channels)));
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / groups, first = task % groups * per_group;
            const int64_t at_row = (first * batch + b) * sample, at_sum = (first * batch + b) * channels;
            Gate job{};
            job.storage = storage;
            job.rows = std::min(per_group, rows - first);
            if (job.rows <= 0) continue;
            job.positions = positions;
            job.channels = channels;
            job.g = address(g, at_row);
            if (other.defined()) job.other = address(other, at_row);
            job.g_row = job.out_row = batch * sample;
            job.multiply = multiply;
            if (gate.defined()) job.gate = address(gate, b * sample);
            if (plain) job.out = address(out, at_row);
            job.affine = static_cast<int>(norms.size());
            job.sum_row = batch * channels;
            job.bias = address(sums, at_sum);
            for (int k = 0; k < job.affine; ++k) {
                job.x[k] = address(norms[k].x, b * sample);
                job.mean[k] = address(norms[k].mean, 0);
                job.rstd[k] = address(norms[k].rstd, 0);
                job.scale[k] = address(sums, (k + 1) * rows * batch * channels + at_sum);
                if (scaled.empty()) continue;
                job.factor[k] = address(norms[k].factor, 0);
                job.scaled[k] = address(scaled[k], at_row);
            }
            job.scratch = scratch.data();
            kernel(job);
        }
    });
    return {out, sums, scaled};
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("gate_backward", gate_backward);
}

}  // namespace gradfast::cpu
