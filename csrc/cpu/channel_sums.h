// Gradients of biases and of norm layers' scales: sums over positions, made and reduced one sample and row at
// a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace gradfast::cpu {

// For g [C, B, O, *] and, if given, xhat [B, O, *], with s = sum over * of g or of g * xhat.
at::Tensor channel_sqnorm(const at::Tensor& g, const std::optional<at::Tensor>& xhat);  // [B, C]
at::Tensor channel_dot(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                       const at::Tensor& ref);                                        // [B, C]
at::Tensor channel_gram(const at::Tensor& g, const std::optional<at::Tensor>& xhat);  // [B, C, C]

}  // namespace gradfast::cpu
