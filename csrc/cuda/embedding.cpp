// Norms, dots and Grams of an embedding table's gradient: for each distinct token, the sum of its g.
#include "kernels/embedding.h"

#include <ATen/ops/add.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/triu.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"
#include "sums.h"

namespace gradfast::cuda {
namespace {

EmbeddingParams embedding_params(const at::Tensor& tokens, const at::Tensor& g, int64_t padding_idx) {
    EmbeddingParams p;
    p.g = g.data_ptr();
    p.tokens = tokens.data_ptr<int64_t>();
    p.padding = padding_idx < 0 ? -1 : padding_idx;
    p.samples = g.size(1);
    p.positions = g.size(2);
    p.rows = static_cast<int32_t>(g.size(0));
    p.width = static_cast<int32_t>(g.size(3));
    return p;
}

// Norms of each row, or with cross inner products of each pair of rows c <= d, zeros elsewhere.
at::Tensor runs(const at::Tensor& indices, const at::Tensor& g_in, int64_t padding_idx, bool cross) {
    const at::Tensor g = g_in.contiguous();
    const DeviceScope device(g);
    const auto [tokens, order] = at::sort(indices, /*stable=*/true, /*dim=*/1, /*descending=*/false);
    const auto sorted_tokens = tokens.contiguous(), sorted_order = order.contiguous();
    EmbeddingParams p = embedding_params(sorted_tokens, g, padding_idx);
    p.order = sorted_order.data_ptr<int64_t>();
    p.cross = cross;
    p.items = cross ? p.rows * (p.rows + 1) / 2 : p.rows;
    p.parts = (p.width + kEmbeddingThreads - 1) / kEmbeddingThreads;
    std::vector<int64_t> shape{p.samples, p.rows};
    if (cross) shape.push_back(p.rows);
    BlockSums sums(g, shape, p.parts);
    p.destination = sums.from(0);
    launch_blocks(p.samples * p.items * p.parts, p, [&](int64_t blocks, const EmbeddingParams& q) {
        return launch_embedding_runs(element_type(g.scalar_type()), blocks, q, device.stream());
    });
    return sums.finish(device, false);
}

at::Tensor zeros_for(const at::Tensor& g, at::IntArrayRef shape) {
    return at::zeros(shape, g.options().dtype(accumulate_dtype(g.scalar_type())));
}

at::Tensor embedding_sqnorm(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_sqnorm", indices, g);
    if (g.numel() == 0) return zeros_for(g, {g.size(1), g.size(0)});
    return runs(indices, g, padding_idx, false);
}

at::Tensor embedding_gram(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_gram", indices, g);
    if (g.numel() == 0) return zeros_for(g, {g.size(1), g.size(0), g.size(0)});
    const auto upper = runs(indices, g, padding_idx, true);
    return at::add(upper, at::triu(upper, 1).transpose(1, 2));
}

at::Tensor embedding_dot(const at::Tensor& indices_in, const at::Tensor& g_in, const at::Tensor& ref_in,
                         int64_t padding_idx) {
    check_embedding("embedding_dot", indices_in, g_in);
    check_same("embedding_dot", "g", g_in, "ref", ref_in);
    TORCH_CHECK_VALUE(ref_in.dim() == 2 && ref_in.size(1) == g_in.size(3), "embedding_dot: ref has shape ",
                      ref_in.sizes(), "; wanted [V, ", g_in.size(3), "]");
    if (g_in.numel() == 0) return zeros_for(g_in, {g_in.size(1), g_in.size(0)});
    const at::Tensor g = g_in.contiguous(), ref = ref_in.contiguous(), indices = indices_in.contiguous();
    const DeviceScope device(g);
    EmbeddingParams p = embedding_params(indices, g, padding_idx);
    p.table = ref.data_ptr();
    p.entries = ref.size(0);
    p.items = p.rows;
    p.parts = static_cast<int32_t>((p.positions + kEmbeddingDotPositions - 1) / kEmbeddingDotPositions);
    BlockSums sums(g, {p.samples, p.rows}, p.parts);
    p.destination = sums.from(0);
    launch_blocks(p.samples * p.items * p.parts, p, [&](int64_t blocks, const EmbeddingParams& q) {
        return launch_embedding_dot(element_type(g.scalar_type()), blocks, q, device.stream());
    });
    return sums.finish(device, false);
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("embedding_sqnorm", embedding_sqnorm);
    m.impl("embedding_dot", embedding_dot);
    m.impl("embedding_gram", embedding_gram);
}

}  // namespace gradfast::cuda
