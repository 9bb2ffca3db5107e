// Copies of tensors into the kernels' operands: conversion, transposition and pairing.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

// A matrix in a tensor; strides in elements.
struct Source {
    const void* data;
    Storage storage;
    int64_t row_stride, column_stride;
};

// out[r * out_stride + c] = source(r, c). out: what `element` says.
GRADFAST_SIMD_KERNEL(void, copy_matrix, const Source& source, int64_t rows, int64_t columns, Element element,
                     void* out, int64_t out_stride)

// out[i] = {even[i], odd[i]} in bf16; odd may be null: zeros.
GRADFAST_SIMD_KERNEL(void, pair_bf16, const uint16_t* even, const uint16_t* odd, int64_t n, uint16_t* out)

}  // namespace gradfast::cpu
