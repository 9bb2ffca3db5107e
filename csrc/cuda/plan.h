// Which kernel variant runs: the one table from (op, math, shape) to form, tile and grid. Asks nothing of a
// device and includes nothing of CUDA, so that every build can tell (explain).
#pragma once

#include <cstdint>
#include <string>

#include "../cost.h"
#include "kernels/variants.h"

namespace gradfast::cuda {

inline int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// The gradient P' U of every sample, row and group (kernels/contraction.h).
struct ContractionSize {
    int64_t rows, samples, groups;
    int64_t positions;          // T
    int64_t position_channels;  // of P, one group
    int64_t window_width;       // of U, one group: taps * channels
    int64_t taps;
    int64_t pixels;  // of the image that U is unfolded from, all frames
    bool unit_stride;
    bool transposed;  // each row has its own U and the rows share P
};

// Grid of a kernel whose blocks each take one part of one sample's result, for a run of items (rows, pairs of
// rows).
struct Grid {
    Tile tile = Tile::small;
    int64_t tiles_m = 0, tiles_n = 0;
    int64_t parts = 0;  // blocks whose sums make one number of the result
    int64_t items = 0, items_per_block = 1, item_blocks = 0;
    int64_t blocks = 0;
    bool resident = false;
};

ContractionSize contraction_size(const ConvShape& shape);

Form choose_form(const ContractionSize& size, Math math);

// Whether the direct form fills so little of a tile that depthwise.cu is quicker: depthwise convolutions
// above all.
bool is_narrow(const ContractionSize& size, Math math);

Grid direct_grid(const ContractionSize& size, Math math, int multiprocessors);
// cross: inner products of pairs of rows.
Grid gram_grid(const ContractionSize& size, Math math, int multiprocessors, bool cross);
Grid dot_grid(const ContractionSize& size, Math math, int multiprocessors);

// "bf16", "fp16", "tf32", "fp32" or "fp64".
Math math_of_name(const char* op, const std::string& name);

// The kernel that takes a form, for people: "direct tf32 128x128", "depthwise fp32".
std::string variant_name(Form form, const ContractionSize& size, Math math, int multiprocessors);

}  // namespace gradfast::cuda
