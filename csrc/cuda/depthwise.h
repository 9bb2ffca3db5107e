// From tensors to the launches of kernels/depthwise.cu.
#pragma once

#include <optional>

#include "channel_sums.h"
#include "weight_gradient.h"

namespace gradfast::cuda {

// Norms, dots or Grams by way of the gradients themselves, of as many samples at once as stay in the L2
// cache: [B, C] or [B, C, C]. weight (for dots) as in weight_gradient.h.
at::Tensor depthwise(const char* op, const WeightGradient& w, Reduction reduction,
                     const std::optional<at::Tensor>& weight = {});

}  // namespace gradfast::cuda
