// Inner products of weight gradients P' U across the rows of a sample, for linear layers and convolutions
// alike.
#pragma once

#include "../cost.h"
#include "operands.h"

namespace gradfast::cpu {

// out[b, c, d] = the inner product of the gradients of rows c and d for sample b, added over groups; [B, C,
// C] in the accumulator's type, zero before. x is the layer's input and g the cotangents of its output.
void weight_gram(const ConvShape& shape, const Image& x, const Image& g, void* out);

}  // namespace gradfast::cpu
