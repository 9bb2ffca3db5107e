// Gram matrices of one sample as weights of weighted_inner_products.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// A stride-1 convolution's geometry; missing leading dimensions have extent 1.
struct PixelGramProblem {
    Element element;
    int64_t frames;
    int64_t position[3], window[3], kernel[3], padding[3], dilation[3];
};

// The Gram matrix of unfolded windows from that of their pixels (upper triangles; pixels of a frame in
// row-major order): out(t, t') = sum over taps of pixel_gram(pixel of t, pixel of t'), where both lie in the
// image. For t in [begin, end).
GRADFAST_SIMD_KERNEL(void, sum_pixel_gram, const PixelGramProblem& problem, int64_t begin, int64_t end,
                     const void* pixel_gram, int64_t pixel_stride, void* out, int64_t out_stride)

// Makes rows [begin, end) of an upper triangle of n into a weight: doubled above the diagonal, zero below it
// and past n.
GRADFAST_SIMD_KERNEL(void, double_upper, Element element, int64_t begin, int64_t end, int64_t n, void* matrix,
                     int64_t stride)

}  // namespace gradfast::cpu
