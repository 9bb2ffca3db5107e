// Norms, dots and Grams of a bias's gradient, sum_t g_t.
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"

namespace gradfast::cuda {
namespace {

void check_bias(const char* op, const at::Tensor& g) {
    TORCH_CHECK_VALUE(g.dim() >= 3, op, ": g has shape ", g.sizes(), "; wanted [C, B, O, *]");
    check_operand(op, "g", g, g.dim());
}

at::Tensor bias_sqnorm(const at::Tensor& g) {
    check_bias("bias_sqnorm", g);
    return reduce_channels(g, {}, {}, Reduction::square);
}

at::Tensor bias_dot(const at::Tensor& g, const at::Tensor& ref) {
    check_bias("bias_dot", g);
    check_same("bias_dot", "g", g, "ref", ref);
    check_shape("bias_dot", "ref", ref, {g.size(2)});
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
