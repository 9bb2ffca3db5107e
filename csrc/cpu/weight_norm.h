// Squared norms of weight gradients P' U, for linear layers and convolutions alike.
#pragma once

#include "../cost.h"
#include "operands.h"

namespace gradfast::cpu {

// out[b * rows + c] = the squared norm for sample b and row c, added over groups. x is the layer's input and
// g the cotangents of its output; `shape` says which of them is P and which U. Out holds double for f64, else
// float.
void weight_sqnorm(const ConvShape& shape, const Image& x, const Image& g, Form form, void* out);

}  // namespace gradfast::cpu
