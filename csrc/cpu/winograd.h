// Backward of a 3x3 convolution (stride 1, padding 1) by Winograd's F(4x4, 3x3).
//
// A 6x6 tile of the cotangent g, transformed once (V = B' g B), serves both
//   the input gradient   dx = A' [ sum_o V_o * (G w_oi G') ] A         correlation with the flipped weight
//   the weight gradient  dw = A3' [ sum_tiles V_o * (G4 x_i G4') ] A3  correlation with a 4x4 tile of x
// where * is elementwise over the 36 frequencies, so that the sums are 36 matrix products with 4 times fewer
// multiplications than the direct forms. Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
// arXiv:1509.09308; Winograd, "Arithmetic Complexity of Computations", 1980.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "operand.h"

namespace gradfast::cpu {

// Strides are in elements; channels have stride 1 in g, mask, x and dx.
struct WinogradProblem {
    int64_t rows, batch, out_channels, in_channels, height, width;
    Storage storage;  // f32 or bf16, of g, mask, weight, x and dx
    bool need_dx, need_sq;
    const void* g;  // [rows, batch, height, width, out_channels]
    int64_t g_row, g_sample, g_y, g_x;
    const void* mask;  // [batch, height, width, out_channels]: g counts where it is positive; or null
    int64_t mask_sample, mask_y, mask_x;
    const float* scale;  // [out_channels], of g; or null
    const void* x;       // [batch, height, width, in_channels]; null unless need_sq
    int64_t x_sample, x_y, x_x;
    const void* weight;  // [out_channels, in_channels, 3, 3]; null unless need_dx
    int64_t w_o, w_i, w_y, w_x;
    const void* zeros;  // at least [out_channels]
    void* dx;           // [rows, batch, height, width, in_channels], contiguous
    float* sq;          // [batch, rows]
};

// How the work is cut, and the sizes, in floats, of the buffers that the caller provides. An image is one of
// the batch * rows of g, all rows of a sample in succession, as they share its x; a group is the images whose
// transforms are held together.
//
// A thread takes a whole group, with the transformed weight shared by all threads. Where that weight would be
// far larger than the caches (`by_panel`), all threads share a group and each takes panels of input channels,
// whose weights it transforms into its own scratch.
struct WinogradPlan {
    int64_t tiles_y, tiles_x;  // 4x4 tiles of an image
    int64_t images_per_group, groups;
    int64_t tiles_per_block;  // at most so many tiles of a group are transformed together
    int64_t sq_channels;      // output channels whose weight gradient is held at a time
    bool by_panel;
    int64_t panels;
    int64_t v_floats;        // transformed g of a block
    int64_t v_pairs_floats;  // the same in pairs of bf16, for the norms of bf16 tensors
    int64_t weight_floats;   // transformed weight: all of it, or of a panel
    int64_t x_floats;        // transformed x of one sample
    int64_t m_floats;        // products for dx of a block: all channels, or a panel
    int64_t dw_floats;       // products for the weight gradient
};

// The buffers of a thread; unused ones may be null.
struct WinogradBuffers {
    float *v, *v_pairs, *u_w, *u_x, *m, *dw;
    int64_t x_sample;  // the sample whose x is in u_x; -1: none
};

GRADFAST_SIMD_KERNEL(WinogradPlan, winograd_plan, const WinogradProblem& problem, int64_t threads)
// weight -> u_w, for the output channels [begin, end).
GRADFAST_SIMD_KERNEL(void, winograd_transform_weight, const WinogradProblem& problem, float* u_w,
                     int64_t begin, int64_t end)
// All of one group: dx and sq.
GRADFAST_SIMD_KERNEL(void, winograd_group, const WinogradProblem& problem, const WinogradPlan& plan,
                     WinogradBuffers& buffers, int64_t group)
// The steps of a group, by panel: g -> v, of the images [begin, end); dx, of the panels; sq, of the images.
GRADFAST_SIMD_KERNEL(void, winograd_transform_g, const WinogradProblem& problem, const WinogradPlan& plan,
                     WinogradBuffers& buffers, int64_t group, int64_t begin, int64_t end)
GRADFAST_SIMD_KERNEL(void, winograd_panels, const WinogradProblem& problem, const WinogradPlan& plan,
                     WinogradBuffers& buffers, int64_t group, int64_t begin, int64_t end)
GRADFAST_SIMD_KERNEL(void, winograd_norms, const WinogradProblem& problem, const WinogradPlan& plan,
                     WinogradBuffers& buffers, int64_t group, int64_t begin, int64_t end)

}  // namespace gradfast::cpu
