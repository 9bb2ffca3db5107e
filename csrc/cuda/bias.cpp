// Norms, dots and Grams of a bias's gradient, sum_t g_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

at::Tensor bias_sqnorm(const at::Tensor& g) {
    check_bias("bias_sqnorm", g);
    return reduce_channels(g, {}, {}, Reduction::square);
}

at::Tensor bias_dot(const at::Tensor& g, const at::Tensor& ref) {
    check_bias("bias_dot", g);
    check_channel_ref("bias_dot", g, ref);
    return reduce_channels(g, {}, ref, Reduction::dot);
}

at::Tensor bias_gram(const at::Tensor& g) {
    check_bias("bias_gram", g);
    return reduce_channels(g, {}, {}, Reduction::gram);
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("bias_sqnorm", bias_sqnorm);
    m.impl("bias_dot", bias_dot);
    m.impl("bias_gram", bias_gram);
}

}  // namespace gradfast::cuda
