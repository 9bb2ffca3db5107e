// The gradient of one sample's embedding: for each distinct token, the sum of the vectors at its positions.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// Positions of one sample, sorted by token: those of token k are order[begin[k]] to order[begin[k + 1] - 1].
struct TokenRuns {
    const int64_t* order;
    const int64_t* begin;
    int64_t tokens;
};

// sum over the tokens of ||sum of the token's vectors||^2, for vectors g + position * stride of `width`
// elements.
GRADFAST_SIMD_KERNEL(double, token_square_sum, Storage storage, const void* g, int64_t stride, int64_t width,
                     const TokenRuns& runs)

// out = the sum of one token's vectors; double for f64, else float.
GRADFAST_SIMD_KERNEL(void, token_sum, Storage storage, const void* g, int64_t stride, int64_t width,
                     const TokenRuns& runs, int64_t token, void* out)

}  // namespace gradfast::cpu
