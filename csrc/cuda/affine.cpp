// Norms, dots and Grams of a norm layer's scale gradient, sum_t g_t * xhat_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

at::Tensor affine_sqnorm(const at::Tensor& xhat, const at::Tensor& g) {
    check_affine("affine_sqnorm", xhat, g);
    return reduce_channels(g, xhat, {}, Reduction::square);
}

at::Tensor affine_dot(const at::Tensor& xhat, const at::Tensor& g, const at::Tensor& ref) {
    check_affine("affine_dot", xhat, g);
    check_channel_ref("affine_dot", g, ref);
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
