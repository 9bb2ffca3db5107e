// Norms, dots and Grams of a bias's gradient, sum_t g_t.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"

namespace gradfast::cpu {
namespace {

// [C, B, O, T]
at::Tensor channel_rows(const at::Tensor& g) {
    int64_t positions = 1;
    for (int64_t i = 3; i < g.dim(); ++i) positions *= g.size(i);
    return g.to(accumulate_dtype(g.scalar_type())).reshape({g.size(0), g.size(1), g.size(2), positions});
}

// [C, B, O]: the gradients themselves, which are small.
at::Tensor channel_sums(const char* op, const at::Tensor& g) {
    TORCH_CHECK_VALUE(g.dim() >= 3, op, ": g has shape ", g.sizes(), "; wanted [C, B, O, *]");
    check_operand(op, "g", g, g.dim());
    return channel_rows(g).sum(-1);
}

at::Tensor bias_sqnorm(const at::Tensor& g) {
    return channel_sums("bias_sqnorm", g).square().sum(-1).t().contiguous();
}

at::Tensor bias_dot(const at::Tensor& g, const at::Tensor& ref) {
    auto s = channel_sums("bias_dot", g);
    check_same("bias_dot", "g", g, "ref", ref);
    check_shape("bias_dot", "ref", ref, {g.size(2)});
    return (s * ref.to(s.scalar_type())).sum(-1).t().contiguous();
}

at::Tensor bias_gram(const at::Tensor& g) {
    const auto s = channel_sums("bias_gram", g).transpose(0, 1);
    return at::matmul(s, s.transpose(1, 2));
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("bias_sqnorm", bias_sqnorm);
    m.impl("bias_dot", bias_dot);
    m.impl("bias_gram", bias_gram);
}

}  // namespace gradfast::cpu
