// Norms, dots and Grams of a norm layer's scale gradient, sum_t g_t * xhat_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

void check_affine(const char* op, const at::Tensor& xhat, const at::Tensor& g) {
    TORCH_CHECK_VALUE(xhat.dim() >= 2, op, ": xhat has shape ", xhat.sizes(), "; wanted [B, O, *]");
    check_operand(op, "xhat", xhat, xhat.dim());
    check_operand(op, "g", g, xhat.dim() + 1);
    check_same(op, "xhat", xhat, "g", g);
    TORCH_CHECK_VALUE(g.sizes().slice(1) == xhat.sizes(), op, ": g has shape ", g.sizes(),
                      "; wanted [C, *] with xhat's ", xhat.sizes());
}

at::Tensor affine_sqnorm(const at::Tensor& xhat, const at::Tensor& g) {
    check_affine("affine_sqnorm", xhat, g);
    return reduce_channels(g, xhat, {}, Reduction::square);
}

at::Tensor affine_dot(const at::Tensor& xhat, const at::Tensor& g, const at::Tensor& ref) {
    check_affine("affine_dot", xhat, g);
    check_same("affine_dot", "g", g, "ref", ref);
    check_shape("affine_dot", "ref", ref, {g.size(2)});
    return reduce_channels(g, xhat, ref, Reduction::dot);
}

at::Tensor affine_gram(const at::Tensor& xhat, const at::Tensor& g) {
    check_affine("affine_gram", xhat, g);
    return reduce_channels(g, xhat, {}, Reduction::gram);
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("affine_sqnorm", affine_sqnorm);
    m.impl("affine_dot", affine_dot);
    m.impl("affine_gram", affine_gram);
}

}  // namespace gradfast::cuda
