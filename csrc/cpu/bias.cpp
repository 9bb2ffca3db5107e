// Norms, dots and Grams of a bias's gradient, sum_t g_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cpu {
namespace {

at::Tensor bias_sqnorm(const at::Tensor& g) {
    check_bias("bias_sqnorm", g);
    return channel_sqnorm(g, std::nullopt);
}

at::Tensor bias_dot(const at::Tensor& g, const at::Tensor& ref) {
    check_bias("bias_dot", g);
    check_channel_ref("bias_dot", g, ref);
    return channel_dot(g, std::nullopt, ref);
}

at::Tensor bias_gram(const at::Tensor& g) {
    check_bias("bias_gram", g);
    return channel_gram(g, std::nullopt);
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("bias_sqnorm", bias_sqnorm);
    m.impl("bias_dot", bias_dot);
    m.impl("bias_gram", bias_gram);
}

}  // namespace gradfast::cpu
