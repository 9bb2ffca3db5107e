// Norms, dots and Grams of the gradient P' U, from tensors to launches: the host half of direct.cu, gram.cu,
// dot.cu.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/contraction.h"
#include "plan.h"

namespace gradfast::cuda {

// A weight gradient as the kernels see it. The tensors keep the operands' memory alive.
struct WeightGradient {
    at::Tensor position_data, window_data;
    Operand position, window;
    Positions positions;
    ContractionSize size;
    Math math;

    bool empty() const {
        return size.rows == 0 || size.samples == 0 || size.positions == 0 || size.position_channels == 0 ||
               size.window_width == 0;
    }
};

// Scratch for as many samples at once as stay in the L2 cache of an A100 or H100.
constexpr int64_t kScratchBytes = 24 << 20;

// The address of an element so far behind data, of the type of like.
inline const void* advance(const void* data, int64_t elements, const at::Tensor& like) {
    return static_cast<const char*>(data) + elements * static_cast<int64_t>(like.element_size());
}

// The arithmetic for operands of a dtype; tf32 where torch allows it.
Math math_for(at::ScalarType dtype, bool tf32_allowed);

// Fills in how op reads data: by which asynchronous copies.
void finish_operand(Operand& op, const at::Tensor& data, int64_t channels);

// A length that the kernels count in 32 bits.
int32_t narrow(const char* op, const char* what, int64_t value);

at::Tensor sqnorm(const char* op, const WeightGradient& w, std::optional<Form> form);  // -> [B, C]
// weight [position channels of all groups, taps, window channels], contiguous.
at::Tensor dot(const char* op, const WeightGradient& w, const at::Tensor& weight);  // -> [B, C]
at::Tensor gram(const char* op, const WeightGradient& w);                           // -> [B, C, C]

}  // namespace gradfast::cuda
