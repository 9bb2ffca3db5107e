// Input gradient of a convolution whose stride is above one, all rows, as matrix products without zeros.
//
// The pixels (y, x) of dx with the same ((y + padding) mod stride) in both directions are a phase: the same
// taps of the kernel reach all of them. So each phase is a convolution of stride 1 with some of the taps,
//   dx[pixel] = sum over its taps of g[position of the pixel - tap] W[tap],
// and every pixel is written once, where the usual form adds up a k x k patch of products for each position.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "operand.h"

namespace gradfast::cpu {

// Strides are in elements; channels have stride 1 in g and dx.
struct StridedProblem {
    int64_t images, out_channels, in_channels, g_height, g_width;
    Storage storage;  // f32 or bf16, of g, weight and dx
    const void* g;    // [images, g_height, g_width, out_channels]
    int64_t g_image, g_y, g_x;
    const void* weight;  // [out_channels, in_channels, *, *]
    int64_t w_o, w_i;
    void* dx;  // [images, dx_image elements], contiguous
    int64_t dx_image;
};

// g of some images within zeros, so that no tap has to look whether it is inside: [images, height, width,
// units], a unit being a float or a pair of bf16. The first position of an image is at `first`.
struct PaddedImages {
    void* data;
    int64_t height, width, units, first;
    int64_t image_units() const { return height * width * units; }
};

struct StridedPhase {
    int64_t taps;
    const int64_t* tap_weight;  // of each tap, its offset in the weight, in elements
    const int64_t* tap_from;    // and how far from a pixel's own position it reads in padded g, in units
    int64_t pixels;             // of one image
    const int64_t* from;        // of each pixel, its position in padded g, in units
    const int64_t* to;          // and in dx, in elements
};

// Elements of g in a unit, and input channels that one panel of weights holds.
GRADFAST_SIMD_KERNEL(int64_t, strided_unit, Storage storage)
GRADFAST_SIMD_KERNEL(int64_t, strided_panel, )
// g of one image into `image` of the padded ones.
GRADFAST_SIMD_KERNEL(void, strided_pad, const StridedProblem& problem, int64_t from,
                     const PaddedImages& padded, int64_t image)
// The weights of a phase for the input channels [channel, channel + strided_panel()), as `strided_products`
// reads them: taps * units * strided_panel() units at most.
GRADFAST_SIMD_KERNEL(void, strided_pack, const StridedProblem& problem, const StridedPhase& phase,
                     int64_t units, int64_t channel, void* packed)
// These channels of all pixels of a phase, of the images [first, first + count), which are padded.
GRADFAST_SIMD_KERNEL(void, strided_products, const StridedProblem& problem, const StridedPhase& phase,
                     const PaddedImages& padded, int64_t first, int64_t count, int64_t channel,
                     const void* packed)

}  // namespace gradfast::cpu
