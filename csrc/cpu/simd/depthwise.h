// The gradient of a depthwise convolution, whose channels are the lanes of the vectors.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

struct DepthwiseProblem {
    Element element;  // f32 or f64
    Positions p;      // [positions, channels]
    Windows u;
    const int64_t* tap;  // of each tap, where its channels begin in a window
    int64_t taps;
};

// Channels that one call should be given.
GRADFAST_SIMD_KERNEL(int64_t, depthwise_channels, Element element)

// Sum over the taps and the channels [first, first + count) of the squared gradient.
GRADFAST_SIMD_KERNEL(double, depthwise_square_sum, const DepthwiseProblem& problem, int64_t first,
                     int64_t count)

}  // namespace gradfast::cpu
