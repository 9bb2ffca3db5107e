// Where the transformed operands and the products of the Winograd backward lie in its buffers.
#pragma once

#include "../winograd.h"
#include "winograd_gemm.h"
#include "winograd_transform.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
inline int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}

// Distance of two frequencies of a [36][count] array: a cache line more than its size, which is often a
// multiple of the page, so that the 36 lines written together do not fall into one cache set.
inline int64_t frequency_stride(int64_t count) {
    return round_up(count, 16) + 16;
}

// Offset of (k, column) in a matrix [depth, columns] of panels.
inline int64_t panel_offset(int64_t depth, int64_t columns, int64_t k, int64_t column) {
    const int64_t first = column / kPanel * kPanel;
    return first * depth + k * smaller(kPanel, columns - first) + (column - first);
}

// The products for the norms are taken in units of the storage type, of a tile or of a pair of tiles; those
// for dx always in float, as their errors add up from layer to layer.
inline int64_t tiles_per_unit(const WinogradProblem& p) {
    return p.storage == Storage::bf16 ? UnitOf<Bf16>::elements : 1;
}

// Layouts of the buffers: v [36][tiles of a block][out_padded]; m [36][tiles of a block][m_columns];
// dw [36][sq_channels][in_padded]; u_w [36] panels of [out_channels, m_columns]. A unit is a tile or a pair
// of them: v_units [36][units of a block][out_padded]; u_x [36][block] panels of [units of the block,
// in_padded].
struct Layout {
    int64_t out_padded, in_padded, m_columns, image_units, block_units;
    int64_t v_stride, v_units_stride, w_stride, x_stride, m_stride, dw_stride;
    Layout(const WinogradProblem& p, const WinogradPlan& plan)
        : out_padded(round_up(p.out_channels, kLanes)),
          in_padded(round_up(p.in_channels, kLanes)),
          m_columns(plan.by_panel ? kPanel : in_padded),
          image_units(ceil_div(plan.tiles_y * plan.tiles_x, tiles_per_unit(p))),
          block_units(plan.tiles_per_block < plan.tiles_y * plan.tiles_x
                          ? plan.tiles_per_block / tiles_per_unit(p)
                          : plan.images_per_group * image_units),
          v_stride(frequency_stride(plan.tiles_per_block * out_padded)),
          v_units_stride(frequency_stride(block_units * out_padded)),
          w_stride(frequency_stride(p.out_channels * m_columns)),
          x_stride(frequency_stride(image_units * in_padded)),
          m_stride(frequency_stride(plan.tiles_per_block * m_columns)),
          dw_stride(frequency_stride(plan.sq_channels * in_padded)) {}
};

inline FloatSink norm_sink(float* out, int64_t stride, bool) {
    return {out, stride};
}
#if defined(__AVX512BF16__)
inline PairSink norm_sink(Bf16Pair* out, int64_t stride, bool odd) {
    return {out, stride, odd};
}
#endif

}  // namespace
}  // namespace gradfast::cpu::GRADFAST_ARCH
