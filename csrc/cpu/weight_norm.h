// Squared norms of weight gradients P' U, for linear layers and convolutions alike, and inner products with a
// reference where they fall off with them.
#pragma once

#include "../cost.h"
#include "operands.h"

namespace gradfast::cpu {

// out[b * rows + c] = the squared norm for sample b and row c, added over groups. x is the layer's input and
// g the cotangents of its output; `shape` says which of them is P and which U. Out holds double for f64, else
// float.
void weight_sqnorm(const ConvShape& shape, const Image& x, const Image& g, Form form, void* out);

// Whether this form has the gradient's elements at hand, so that an inner product costs next to nothing.
bool forms_elements(const ConvShape& shape, Form form);

// The same for such a form, and dots[b * rows + c] = the gradient's inner product with ref
// [groups * position channels, taps * window channels], without gaps; ref and dots of out's type.
void weight_sqnorm_and_dot(const ConvShape& shape, const Image& x, const Image& g, Form form, const void* ref,
                           void* out, void* dots);

}  // namespace gradfast::cpu
