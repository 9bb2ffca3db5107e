// C[m, n] (+)= sum_k A(m, k) B[k, n] for the small products of one frequency, in register tiles.
#pragma once

#include "multiply.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// 24 accumulators where there are 32 registers, 12 where there are 16.
constexpr int kPanelVecs = kRegisters == 32 ? 4 : 2;
constexpr int kPanel = kPanelVecs * kWidth<float>;
constexpr int kBlockRows = 6;

// B is in panels of kPanel columns, [panel][k][kPanel]; the last panel may be narrower, in whole vectors.
template <int Rows, int Vecs, bool Accumulate, typename Unit>
void gemm_tile(int64_t depth, const Unit* a, int64_t a_row, int64_t a_depth, const Unit* b, float* c,
               int64_t c_row) {
    using M = Multiply<Unit>;
    Vec<float> sum[Rows][Vecs];
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j)
            sum[i][j] = Accumulate ? load(c + i * c_row + j * kWidth<float>) : Vec<float>{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        typename M::Operand columns[Vecs];
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) columns[j] = M::load(b + j * kWidth<float>);
#pragma GCC unroll 6
        for (int i = 0; i < Rows; ++i) {
            const typename M::Operand value = M::broadcast(a[i * a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < Vecs; ++j) M::add(sum[i][j], value, columns[j]);
        }
        a += a_depth;
        b += Vecs * kWidth<float>;
    }
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) store(c + i * c_row + j * kWidth<float>, sum[i][j]);
    }
}

template <typename Unit>
using GemmTile = void (*)(int64_t, const Unit*, int64_t, int64_t, const Unit*, float*, int64_t);

template <bool Accumulate, int Vecs, typename Unit>
inline GemmTile<Unit> gemm_tile_of(int64_t rows) {
    static constexpr GemmTile<Unit> tiles[kBlockRows] = {
        gemm_tile<1, Vecs, Accumulate, Unit>, gemm_tile<2, Vecs, Accumulate, Unit>,
        gemm_tile<3, Vecs, Accumulate, Unit>, gemm_tile<4, Vecs, Accumulate, Unit>,
        gemm_tile<5, Vecs, Accumulate, Unit>, gemm_tile<6, Vecs, Accumulate, Unit>};
    return tiles[rows - 1];
}

template <bool Accumulate, typename Unit>
inline GemmTile<Unit> gemm_tile_of(int64_t rows, int64_t vecs) {
    if constexpr (kPanelVecs == 4) {
        if (vecs == 4) return gemm_tile_of<Accumulate, 4, Unit>(rows);
        if (vecs == 3) return gemm_tile_of<Accumulate, 3, Unit>(rows);
    }
    return vecs == 2 ? gemm_tile_of<Accumulate, 2, Unit>(rows) : gemm_tile_of<Accumulate, 1, Unit>(rows);
}

// A(m, k) = a[m * a_row + k * a_depth]; B in panels; columns a multiple of the vector's width. A Unit is a
// float, or a pair of bf16 that belongs to two successive k. Each sum runs over k in order, so that no result
// depends on how rows are grouped.
template <bool Accumulate, typename Unit>
inline void gemm(int64_t rows, int64_t columns, int64_t depth, const Unit* a, int64_t a_row, int64_t a_depth,
                 const Unit* b, float* c, int64_t c_row) {
    for (int64_t n = 0; n < columns; n += kPanel) {
        const int64_t vecs = smaller(kPanel, columns - n) / kWidth<float>;
        for (int64_t m = 0; m < rows; m += kBlockRows) {
            gemm_tile_of<Accumulate, Unit>(smaller(kBlockRows, rows - m), vecs)(
                depth, a + m * a_row, a_row, a_depth, b + n * depth, c + m * c_row + n, c_row);
        }
    }
}

}  // namespace
}  // namespace gradfast::cpu::GRADFAST_ARCH
