// Sums over positions, for each channel: gradients of biases and of the scales of norm layers, and the fused
// pointwise step of the backward plan that reads the same cotangents.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "contraction.h"

namespace gradfast::cuda {

constexpr int kMaxAffine = 2;

enum class ElementType { f32, f64, bf16, f16 };

// channels-last: g [rows, samples, positions, channels]; v is g gated. Statistics and factors have the
// accumulator's type.
struct ChannelParams {
    const void* g = nullptr;
    const void* gate = nullptr;           // [samples, positions, channels]; null: v = g
    bool multiply = false;                // v = g * gate; otherwise 0 where gate <= 0 (a gate of NaN is open)
    int32_t affine = 0;                   // how many normalized inputs meet v
    const void* x[kMaxAffine] = {};       // [samples, positions, channels]
    const void* mean[kMaxAffine] = {};    // [channels]; null: x is normalized
    const void* rstd[kMaxAffine] = {};    // [channels]
    const void* factor[kMaxAffine] = {};  // [channels]
    void* scaled[kMaxAffine] = {};        // v * factor, as g; null: not wanted
    void* out = nullptr;                  // v, as g; null: not wanted
    void* sums = nullptr;  // [splits, 1 + affine, rows, samples, channels]: of v and of v * (x - mean) * rstd
    int64_t samples = 0, positions = 0;
    int64_t positions_per_split = 0;
    int32_t rows = 0, channels = 0;
    int32_t row_blocks = 0, splits = 1, channel_blocks = 0;
    bool bias = true;  // without, the sum of v is left out and sums is [splits, affine, ...]
};

// Channels first: g [rows, samples, channels, positions], xhat [samples, channels, positions] or null.
struct PlaneParams {
    const void* g = nullptr;
    const void* xhat = nullptr;
    void* sums = nullptr;  // [rows, samples, channels]
    int64_t planes = 0;    // rows * samples * channels
    int64_t planes_of_row = 0;
    int64_t positions = 0;
};

enum class Reduction { square, dot, gram };

// From sums [splits, rows, samples, channels] to norms, dots with ref [channels] (as the operands) or Grams.
struct ReduceParams {
    const void* sums = nullptr;
    const void* ref = nullptr;
    void* out = nullptr;
    int64_t samples = 0;
    int32_t rows = 0, channels = 0, splits = 1;
    int32_t items = 0;  // rows, or all pairs of rows
    Reduction reduction = Reduction::square;
};

struct RankOneParams {
    const void* x = nullptr;  // [samples, inputs]
    const void* g = nullptr;  // [rows, samples, outputs]
    void* out = nullptr;      // [samples, rows]
    int64_t samples = 0, inputs = 0, outputs = 0;
    int32_t rows = 0, row_blocks = 0;
};

struct ChannelExtent {
    int rows, channels, positions;  // of one block at a time
};

// vectorized: 16-byte chunks of channels are aligned.
ChannelExtent channel_extent(ElementType type, int affine, bool vectorized, int64_t channels);
cudaError_t launch_channel_sums(ElementType type, bool vectorized, const ChannelParams& params,
                                cudaStream_t stream);
cudaError_t launch_plane_sums(ElementType type, const PlaneParams& params, cudaStream_t stream);
cudaError_t launch_reduce(ElementType type, const ReduceParams& params, cudaStream_t stream);

constexpr int kRankOneRows = 4;  // of one block
cudaError_t launch_rank_one(ElementType type, const RankOneParams& params, cudaStream_t stream);

}  // namespace gradfast::cuda
