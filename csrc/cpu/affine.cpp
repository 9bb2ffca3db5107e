// Norms, dots and Grams of a norm layer's scale gradient, sum_t g_t * xhat_t.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"

namespace gradfast::cpu {
namespace {

// [C, B, O]: the gradients themselves, which are small.
at::Tensor channel_products(const char* op, const at::Tensor& xhat, const at::Tensor& g) {
    TORCH_CHECK_VALUE(xhat.dim() >= 2, op, ": xhat has shape ", xhat.sizes(), "; wanted [B, O, *]");
    check_operand(op, "xhat", xhat, xhat.dim());
    check_operand(op, "g", g, xhat.dim() + 1);
    check_same(op, "xhat", xhat, "g", g);
    TORCH_CHECK_VALUE(g.sizes().slice(1) == xhat.sizes(), op, ": g has shape ", g.sizes(),
                      "; wanted [C, *] with xhat's ", xhat.sizes());
    const auto acc = accumulate_dtype(g.scalar_type());
    int64_t positions = 1;
    for (int64_t i = 3; i < g.dim(); ++i) positions *= g.size(i);
    return (g.to(acc) * xhat.to(acc)).reshape({g.size(0), g.size(1), g.size(2), positions}).sum(-1);
}

at::Tensor affine_sqnorm(const at::Tensor& xhat, const at::Tensor& g) {
    return channel_products("affine_sqnorm", xhat, g).square().sum(-1).t().contiguous();
}

at::Tensor affine_dot(const at::Tensor& xhat, const at::Tensor& g, const at::Tensor& ref) {
    const auto s = channel_products("affine_dot", xhat, g);
    check_same("affine_dot", "g", g, "ref", ref);
    check_shape("affine_dot", "ref", ref, {g.size(2)});
    return (s * ref.to(s.scalar_type())).sum(-1).t().contiguous();
}

at::Tensor affine_gram(const at::Tensor& xhat, const at::Tensor& g) {
    const auto s = channel_products("affine_gram", xhat, g).transpose(0, 1);
    return at::matmul(s, s.transpose(1, 2));
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("affine_sqnorm", affine_sqnorm);
    m.impl("affine_dot", affine_dot);
    m.impl("affine_gram", affine_gram);
}

}  // namespace gradfast::cpu
