// Norms, dots and Grams of an embedding table's gradient: for each distinct token, the sum of its g.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"

namespace gradfast::cpu {
namespace {

void check_embedding(const char* op, const at::Tensor& indices, const at::Tensor& g) {
    TORCH_CHECK_VALUE(indices.dim() == 2, op, ": indices has shape ", indices.sizes(), "; wanted [B, T]");
    TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong, op, ": indices has dtype ", indices.scalar_type(),
                     "; wanted int64");
    check_operand(op, "g", g, 4);
    TORCH_CHECK_VALUE(g.device() == indices.device(), op, ": g is on ", g.device(), "; wanted ",
                      indices.device(), ", as indices");
    TORCH_CHECK_VALUE(g.size(1) == indices.size(0) && g.size(2) == indices.size(1), op, ": g has shape ",
                      g.sizes(), "; wanted [C, B, T, D] with B and T of indices ", indices.sizes());
}

// [C, distinct tokens, D] for one sample; ignored positions are left out.
at::Tensor token_sums(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    const auto gb = g.to(accumulate_dtype(g.scalar_type()));
    const auto keep = padding_idx < 0 ? at::ones_like(indices, at::kBool) : indices.ne(padding_idx);
    const auto kept = indices.masked_select(keep);
    const auto [tokens, inverse] = at::_unique(kept, true, true);
    auto sums = at::zeros({gb.size(0), tokens.size(0), gb.size(2)}, gb.options());
    return sums.index_add_(1, inverse, gb.index_select(1, keep.nonzero().flatten()));
}

at::Tensor embedding_sqnorm(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_sqnorm", indices, g);
    auto out = at::zeros({indices.size(0), g.size(0)}, g.options().dtype(accumulate_dtype(g.scalar_type())));
    for (int64_t b = 0; b < indices.size(0); ++b)
        out[b] = token_sums(indices[b], g.select(1, b), padding_idx).square().sum({1, 2});
    return out;
}

at::Tensor embedding_dot(const at::Tensor& indices, const at::Tensor& g, const at::Tensor& ref,
                         int64_t padding_idx) {
    check_embedding("embedding_dot", indices, g);
    check_same("embedding_dot", "g", g, "ref", ref);
    TORCH_CHECK_VALUE(ref.dim() == 2 && ref.size(1) == g.size(3), "embedding_dot: ref has shape ",
                      ref.sizes(), "; wanted [V, ", g.size(3), "]");
    const auto acc = accumulate_dtype(g.scalar_type());
    const auto rows =
        at::index_select(ref.to(acc), 0, indices.flatten()).view({indices.size(0), indices.size(1), -1});
    const auto kept = padding_idx < 0 ? rows : rows * indices.ne(padding_idx).unsqueeze(-1);
    return (g.to(acc) * kept).sum({2, 3}).t().contiguous();
}

at::Tensor embedding_gram(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_gram", indices, g);
    const int64_t rows = g.size(0);
    auto out = at::zeros({indices.size(0), rows, rows}, g.options().dtype(accumulate_dtype(g.scalar_type())));
    for (int64_t b = 0; b < indices.size(0); ++b) {
        const auto s = token_sums(indices[b], g.select(1, b), padding_idx).flatten(1);
        out[b] = at::mm(s, s.t());
    }
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("embedding_sqnorm", embedding_sqnorm);
    m.impl("embedding_dot", embedding_dot);
    m.impl("embedding_gram", embedding_gram);
}

}  // namespace gradfast::cpu
