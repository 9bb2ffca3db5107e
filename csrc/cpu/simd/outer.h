// Tiles of P' U, the gradient: sums over positions of outer products, in registers.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

struct OuterProblem {
    Element element;
    Positions p;
    Windows u;
    int64_t rows;  // of the gradient: channels of P
};

// Vectors of columns that fit the registers, and lanes of one of them.
constexpr int64_t kOuterVectors = 3;
GRADFAST_SIMD_KERNEL(int64_t, outer_lanes, Element element)

struct SquareSumAndDot {
    double square_sum, dot;
};

// Sum of squares of P' U, all rows, for the columns [run, run + columns) of every window: at most
// kOuterVectors vectors of them. Reads whole vectors of U, so up to 64 bytes past the last column.
// ref, if not null: what to take the inner product with, element (m, n) at ref[m * ref_stride + n]; double
// for f64, else float.
GRADFAST_SIMD_KERNEL(SquareSumAndDot, outer_square_sum, const OuterProblem& problem, int64_t run,
                     int64_t columns, const void* ref, int64_t ref_stride)

// out[m * out_stride + n] = (P' U)[first + m, run + n], for m in [0, rows) and n in [0, columns).
// out: double for f64, else float.
GRADFAST_SIMD_KERNEL(void, outer_products, const OuterProblem& problem, int64_t first, int64_t rows,
                     int64_t run, int64_t columns, void* out, int64_t out_stride)

}  // namespace gradfast::cpu
