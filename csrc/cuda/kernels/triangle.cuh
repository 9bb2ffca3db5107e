// Pairs (first, second) with first <= second, by number.
#pragma once

#include "device.cuh"

namespace gradfast::cuda {

struct Pair {
    int first, second;
};

// The index-th of (0, 0), (0, 1), (1, 1), (0, 2), ...
__device__ __forceinline__ Pair triangular(int index) {
    int second = static_cast<int>((sqrtf(8.0f * static_cast<float>(index) + 1.0f) - 1.0f) * 0.5f);
    while (static_cast<int64_t>(second + 1) * (second + 2) / 2 <= index) ++second;
    while (static_cast<int64_t>(second) * (second + 1) / 2 > index) --second;
    return {index - second * (second + 1) / 2, second};
}

}  // namespace gradfast::cuda
