// Inner products of vectors that are read in place, a register tile of them at a time.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// Ranges of a begin and matrices of products are padded to multiples of this, which every tile's height and
// width divide.
constexpr int64_t kInnerAlign = 12;

struct InnerProblem {
    Element element;
    Vectors a, b;
    int64_t a_count, b_count;
    int64_t segments, length;  // both at least 1
};

// out[i * out_stride + j] (+)= <a_i, b_j>, for i in [begin, end) and j in [0, b_count); with `upper`, at
// least where j >= i, and nowhere outside the tiles that touch it. out: double for f64, else float.
GRADFAST_SIMD_KERNEL(void, inner_products, const InnerProblem& problem, int64_t begin, int64_t end,
                     bool upper, bool accumulate, void* out, int64_t out_stride)

// sum_{i, j} weight[i * weight_stride + j] <a_i, a_j>, over i in [begin, end) and j >= i. The weight is zero
// below the diagonal and, up to a multiple of kInnerAlign both ways, past a_count. b is not read.
GRADFAST_SIMD_KERNEL(double, weighted_inner_products, const InnerProblem& problem, int64_t begin, int64_t end,
                     const void* weight, int64_t weight_stride)

}  // namespace gradfast::cpu
