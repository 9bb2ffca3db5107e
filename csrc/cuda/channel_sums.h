// From tensors to the launches of kernels/channel.cu.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/channel.h"
#include "runtime.h"

namespace gradfast::cuda {

ElementType element_type(at::ScalarType dtype);

// Whether 16-byte chunks of the last dimension are aligned, for a contiguous tensor.
bool chunks_aligned(const at::Tensor& t);

// Splits the rows, positions and channels over blocks: what p needs beside its pointers and sizes.
// Channels-last.
void plan_channel_sums(ChannelParams& p, ElementType type, bool vectorized, int multiprocessors);

// The gradients of g's bias, or with xhat of its scale: [splits, C, B, O], to be added up over the splits.
at::Tensor channel_sums(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                        const DeviceScope& device);

// From sums [splits, C, B, N] to norms or Grams, or dots with ref [N] (of the operands' type): out [B, C] or
// [B, C, C].
void reduce_sums(const at::Tensor& sums, const std::optional<at::Tensor>& ref, Reduction reduction,
                 ElementType type, const at::Tensor& out, const DeviceScope& device);

// Into how many parts a sum over positions is split, when blocks is how many there are without and a block
// takes at_once positions in one pass.
int64_t position_splits(int64_t positions, int64_t at_once, int64_t blocks, int multiprocessors);

// Norms or Grams of them, or dots with ref: [B, C] or [B, C, C].
at::Tensor reduce_channels(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                           const std::optional<at::Tensor>& ref, Reduction reduction);

}  // namespace gradfast::cuda
