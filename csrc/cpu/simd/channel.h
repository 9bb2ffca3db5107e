// Sums over positions, for each channel: the gradient of a bias, or of a norm layer's scale.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// A matrix of channels by positions; strides in elements.
struct ChannelView {
    const void* data;
    int64_t channel_stride, position_stride;
};

// out[o] = sum_t g(o, t), times xhat(o, t) unless xhat.data is null. Vectorised where the channels of all
// operands are adjacent, or the positions of all are. out: double for f64, else float.
GRADFAST_SIMD_KERNEL(void, channel_sums, Storage storage, const ChannelView& g, const ChannelView& xhat,
                     int64_t channels, int64_t positions, void* out)

}  // namespace gradfast::cpu
