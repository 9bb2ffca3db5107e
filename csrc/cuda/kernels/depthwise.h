// Gradients of convolutions whose groups are narrow: depthwise ones above all, which no tile of 64 x 64 fits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "channel.h"
#include "contraction.h"

namespace gradfast::cuda {

// The gradient P' U of every group (contraction.h), of which the columns of U are few. position and window
// are read as the other kernels read them; a channel is one of P, of any group.
struct DepthwiseParams {
    Operand position, window;
    Positions positions;
    void* gradients = nullptr;  // [splits, rows, samples, columns, channels], accumulators
    int64_t samples = 0;
    int64_t positions_per_split = 0;
    Divisor group_channels;  // channels of P in one group
    int32_t rows = 0, channels = 0, columns = 0;
    int32_t row_blocks = 0, channel_blocks = 0, column_blocks = 0, splits = 1;
};

struct DepthwiseExtent {
    int rows, channels, columns, positions;  // of one block at a time
};

// paired: neighbouring channels are groups of their own with one column for each tap, read two at a time.
DepthwiseExtent depthwise_extent(ElementType type, bool paired, int64_t channels);
cudaError_t launch_depthwise(ElementType type, bool paired, const DepthwiseParams& params,
                             cudaStream_t stream);

}  // namespace gradfast::cuda
