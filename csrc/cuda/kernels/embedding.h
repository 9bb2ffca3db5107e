// Norms, dots and Grams of an embedding table's gradient: for each distinct token, the sum of its cotangents.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "channel.h"
#include "contraction.h"

namespace gradfast::cuda {

struct EmbeddingParams {
    const void* g = nullptr;          // [rows, samples, positions, width]
    const int64_t* tokens = nullptr;  // [samples, positions]: sorted for runs, as given for dots
    const int64_t* order = nullptr;   // the positions that the sorted tokens come from
    const void* table = nullptr;      // dots: ref [entries, width]
    int64_t entries = 0;
    int64_t padding = -1;  // this token is ignored; below zero: none
    Destination destination;
    int64_t first_block = 0;
    int64_t samples = 0, positions = 0;
    int32_t rows = 0, width = 0;
    int32_t items = 0;  // rows, or with cross pairs of rows c <= d
    int32_t parts = 0;  // blocks along the width (runs) or the positions (dots)
    bool cross = false;
};

constexpr int kEmbeddingThreads = 128;
constexpr int kEmbeddingDotPositions = 32;  // of one block

// One block for each sample, item and kEmbeddingThreads columns.
cudaError_t launch_embedding_runs(ElementType type, int64_t blocks, const EmbeddingParams& params,
                                  cudaStream_t stream);
// One block for each sample, row and kEmbeddingDotPositions positions.
cudaError_t launch_embedding_dot(ElementType type, int64_t blocks, const EmbeddingParams& params,
                                 cudaStream_t stream);

}  // namespace gradfast::cuda
