// What a contraction kernel is told: plain numbers, filled in by the host (csrc/cuda/*.cpp), read by
// direct.cu, gram.cu and dot.cu. One sample's gradient for one row and group is P' U, where P [T, position
// channels] is the tensor whose positions are summed over and U [T, taps * window channels] the unfolded
// windows of the other (csrc/conv_shape.h). A linear layer is a convolution of one tap.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "variants.h"

namespace gradfast::cuda {

// Division by a number known on the host: q = (high(n * multiplier) + n) >> shift, exact for n < 2^31.
struct Divisor {
    uint32_t value = 1, multiplier = 1, shift = 0;

    Divisor() = default;
    explicit Divisor(int64_t d) : value(static_cast<uint32_t>(d)) {
        while ((int64_t{1} << shift) < d) ++shift;
        multiplier =
            static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value)) / value + 1);
    }
};

// The positions t of one sample: frames, then three spatial dimensions.
struct Positions {
    int32_t count = 0;  // T
    Divisor frame, plane, line;
};

// A channels-last tensor [rows, samples, frames, pixels, channels], read as a matrix [positions, width].
struct Operand {
    const void* data = nullptr;
    int64_t row_stride = 0;  // in elements; 0: all rows share it
    int64_t sample_stride = 0;
    int64_t group_stride = 0;
    int64_t frame_stride = 0;
    int32_t pixel_stride = 0;  // all channels
    int32_t width = 0;         // columns: taps * channels of one group
    Divisor channels;          // of one group
    Divisor kernel_plane, kernel_line;
    int32_t extent[3] = {1, 1, 1};
    int32_t stride[3] = {1, 1, 1};
    int32_t dilation[3] = {1, 1, 1};
    int32_t padding[3] = {0, 0, 0};
    bool windowed = false;   // false: position t is pixel t, and the columns are its channels
    int32_t copy_bytes = 0;  // of an asynchronous copy (see copy_bytes()); 0: element by element
};

// The widest asynchronous copy whose bytes always lie in one pixel, aligned: 16, else the least that there is
// (4, or 8 of float64), else 0.
inline int32_t copy_bytes(const void* data, int64_t channels, int64_t pixel_stride, int element_size) {
    const auto fits = [&](int bytes) {
        const int64_t elements = bytes / element_size;
        return channels % elements == 0 && pixel_stride % elements == 0 &&
               reinterpret_cast<std::uintptr_t>(data) % static_cast<unsigned>(bytes) == 0;
    };
    const int least = element_size < 4 ? 4 : element_size;
    return fits(16) ? 16 : fits(least) ? least : 0;
}

// Where the sum of a block goes: added to out[i], or, for a sum in a fixed order, stored to partial[i * parts
// + part].
struct Destination {
    void* out = nullptr;
    void* partial = nullptr;
    int64_t parts = 0;
};

struct DirectParams {
    Operand position, window;
    Positions positions;
    Destination destination;  // [samples, rows]
    int64_t first_block = 0;  // of this launch
    int32_t rows = 0, groups = 0;
    int32_t rows_per_block = 1;
    int32_t row_blocks = 0;
    int32_t tiles_m = 0, tiles_n = 0;
    bool resident = false;  // U, shared by the rows, stays in shared memory from row to row
};

struct GramParams {
    Operand shared, rowwise;  // of P and U, the one that all rows share and the one that each row has
    Positions positions;
    Destination destination;  // [samples, rows], or [samples, rows, rows] with cross
    void* gram = nullptr;     // [samples, groups, T, T]; what shared's Gram matrix is stored to or read from
    int64_t first_block = 0;
    int32_t rows = 0, groups = 0;
    int32_t items = 0;  // rows, or with cross pairs of rows c <= d
    int32_t items_per_block = 1;
    int32_t item_blocks = 0;
    int32_t tiles = 0;       // along T
    int32_t tile_pairs = 0;  // i <= j, or all with cross
    bool cross = false;
    bool store_gram = false;  // only form shared's Gram matrix
    bool load_gram = false;   // take it from memory
};

struct TapSumParams {
    const void* pixel_gram = nullptr;  // [batches, pixels, pixels], batches = samples * groups
    void* gram = nullptr;              // [batches, T, T]
    Operand window;
    Positions positions;
    int32_t pixels = 0, taps = 0;
    int64_t batches = 0;
};

struct DotParams {
    Operand window;    // U
    Operand weight;    // [position channels, width] of each group
    Operand position;  // P
    Positions positions;
    Destination destination;  // [samples, rows]
    int64_t first_block = 0;
    int32_t rows = 0, groups = 0, channels = 0;  // channels: of P, one group
    int32_t rows_per_block = 1;
    int32_t row_blocks = 0;
    int32_t tiles_m = 0, tiles_n = 0;  // along T and along the channels
};

struct SumParams {
    const void* partial = nullptr;
    void* out = nullptr;
    int64_t count = 0, parts = 0;
    bool clamp = false;  // at zero
};

cudaError_t launch_direct(Math math, Tile tile, int64_t blocks, const DirectParams& params,
                          cudaStream_t stream);
cudaError_t launch_gram(Math math, int64_t blocks, const GramParams& params, cudaStream_t stream);
cudaError_t launch_dot(Math math, int64_t blocks, const DotParams& params, cudaStream_t stream);
cudaError_t launch_tap_sum(bool is_double, const TapSumParams& params, cudaStream_t stream);
cudaError_t launch_sum(bool is_double, const SumParams& params, cudaStream_t stream);

}  // namespace gradfast::cuda
