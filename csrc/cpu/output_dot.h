// Inner products of a weight's gradient with a reference: <gradient, R> = <g, what the layer gives with R as
// its weight>.
#pragma once

#include <ATen/core/Tensor.h>

namespace gradfast::cpu {

// y [B * frames, *] in the accumulator's type and g [C, B * frames, *] -> [B, C].
at::Tensor output_dot(const at::Tensor& y, const at::Tensor& g, int64_t frames);

}  // namespace gradfast::cpu
