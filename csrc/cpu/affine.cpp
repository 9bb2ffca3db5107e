// Norms, dots and Grams of a norm layer's scale gradient, sum_t g_t * xhat_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cpu {
namespace {

at::Tensor affine_sqnorm(const at::Tensor& xhat, const at::Tensor& g) {
    check_affine("affine_sqnorm", xhat, g);
    return channel_sqnorm(g, xhat);
}

at::Tensor affine_dot(const at::Tensor& xhat, const at::Tensor& g, const at::Tensor& ref) {
    check_affine("affine_dot", xhat, g);
    check_channel_ref("affine_dot", g, ref);
    return channel_dot(g, xhat, ref);
}

at::Tensor affine_gram(const at::Tensor& xhat, const at::Tensor& g) {
    check_affine("affine_gram", xhat, g);
    return channel_gram(g, xhat);
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("affine_sqnorm", affine_sqnorm);
    m.impl("affine_dot", affine_dot);
    m.impl("affine_gram", affine_gram);
}

}  // namespace gradfast::cpu
