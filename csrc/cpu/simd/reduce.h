// Sums over contiguous memory.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// sum_i x[i]^2
GRADFAST_SIMD_KERNEL(double, square_sum, Storage storage, const void* x, int64_t n)

// sum_i x[i] y[i]; y: double for f64, else float.
GRADFAST_SIMD_KERNEL(double, dot, Storage storage, const void* x, const void* y, int64_t n)

}  // namespace gradfast::cpu
