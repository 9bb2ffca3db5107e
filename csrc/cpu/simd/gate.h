// One pass over the cotangents of all rows of one sample: gate, bias sums, affine sums.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"
#include "cpu/operand.h"

namespace gradfast::cpu {

constexpr int kMaxAffine = 2;

// Memory is [positions][channels] throughout; row r of g, other, out and the sums starts r times the row's
// stride further.
struct Gate {
    Storage storage;  // f32, f64 or bf16
    const void* g;
    const void* other;  // added to g, with the same strides; null: nothing is
    std::int64_t g_row;
    std::int64_t rows, positions, channels;
    const void* gate;  // null: no gate
    bool multiply;     // v = g * gate; otherwise v = g where gate > 0, and 0 elsewhere
    void* out;         // v; null: not wanted
    std::int64_t out_row;
    int affine;  // how many normalized inputs (x - mean) * rstd meet the gated cotangent
    const void* x[kMaxAffine];
    const void* mean[kMaxAffine];  // accumulator type, [channels]
    const void* rstd[kMaxAffine];
    const void* factor[kMaxAffine];  // accumulator type, [channels]
    void* scaled[kMaxAffine];        // v * factor; null: not wanted
    void* bias;                      // accumulator type, sums over positions
    void* scale[kMaxAffine];
    std::int64_t sum_row;
    void* scratch;  // accumulator type, gate_scratch(channels) elements
};

// Positions that share one normalized tile.
constexpr std::int64_t gate_tile(std::int64_t channels) {
    return channels >= 2048 ? 1 : 2048 / (channels > 0 ? channels : 1);
}

constexpr std::int64_t gate_scratch(std::int64_t channels) {
    return (1 + kMaxAffine) * gate_tile(channels) * channels;
}

GRADFAST_SIMD_KERNEL(void, gate_sums, const Gate& job)

}  // namespace gradfast::cpu
