// Neighbouring threads take neighbouring channels, what is left of the block takes further positions, and
// every thread keeps the gradients of a few rows and columns in registers: each x is read once for these
// rows, each g once for these columns. What leaves is the gradient itself, which is small here: columns
// numbers a channel.
#include "depthwise.h"
#include "element.cuh"
#include "operand.cuh"

namespace gradfast::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 9;  // a 3x3 kernel

// As many as fit into 128 registers without a spill.
__host__ __device__ constexpr int rows_at_once(int pack, int accumulator_bytes) {
    return pack * accumulator_bytes > 4 ? 2 : 4;
}

template <class Element>
constexpr int kPair = sizeof(Element) == 8 ? 1 : 2;

// Two blocks a multiprocessor: left alone, ptxas goes for three and keeps a value on the stack for it.
template <class Element, int kPack>
__global__ void __launch_bounds__(kThreads, 2) depthwise_kernel(const __grid_constant__ DepthwiseParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    constexpr int kRows = rows_at_once(kPack, sizeof(Accumulator));
    GRADFAST_SHARED(Accumulator, folded, kColumns * kThreads * kPack);

    int64_t block = blockIdx.x;
    const int column0 = static_cast<int>(block % p.column_blocks) * kColumns;
    block /= p.column_blocks;
    const int channel_block = static_cast<int>(block % p.channel_blocks);
    block /= p.channel_blocks;
    const int split = static_cast<int>(block % p.splits);
    block /= p.splits;
    const int row0 = static_cast<int>(block % p.row_blocks) * kRows;
    const int64_t sample = block / p.row_blocks;

    const int across = threads_across(p.channels, kPack), down = kThreads / across;
    const int lane = threadIdx.x % across, line = threadIdx.x / across;
    const int channel0 = channel_block * across * kPack, channel = channel0 + lane * kPack;
    const bool present = channel < p.channels;
    const int64_t begin = split * p.positions_per_split;
    const int64_t end =
        begin + p.positions_per_split < p.positions.count ? begin + p.positions_per_split : p.positions.count;
    const int group = divide(present ? channel : 0, p.group_channels).quotient;
    const auto* position =
        static_cast<const Element*>(p.position.data) + sample * p.position.sample_stride + channel;
    const auto* window = static_cast<const Element*>(p.window.data) + sample * p.window.sample_stride +
                         group * p.window.group_stride;
    const bool common = p.window.row_stride == 0;  // the rows share the window

    Accumulator sums[kRows][kColumns][kPack] = {};
    for (int64_t t = begin + line; present && t < end; t += down) {
        const Pixel pixel = pixel_of(p.window, p.positions, static_cast<int>(t));
        Accumulator at[kRows][kPack] = {};
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (row0 + r >= p.rows) break;
            const auto pack = load_pack<Element, kPack>(
                position, (row0 + r) * p.position.row_stride + t * p.position.pixel_stride);
#pragma unroll
            for (int e = 0; e < kPack; ++e) at[r][e] = widen(pack.value[e]);
        }
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const ColumnWalk walk(p.window, pixel, column0 + c);
            const int64_t offset = walk.offset();
            if (offset < 0) continue;
            Pack<Element, kPack> pack;
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                if (row0 + r >= p.rows) break;
                if (r == 0 || !common)
                    pack = load_pack<Element, kPack>(window, (row0 + r) * p.window.row_stride + offset);
#pragma unroll
                for (int e = 0; e < kPack; ++e) sums[r][c][e] += at[r][e] * widen(pack.value[e]);
            }
        }
    }

    // Fold the positions of the block's lines together, one row at a time.
    const int width = across * kPack;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (row0 + r >= p.rows) break;
        __syncthreads();
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
            for (int e = 0; e < kPack; ++e)
                folded[(c * down + line) * width + lane * kPack + e] = sums[r][c][e];
        __syncthreads();
        for (int i = threadIdx.x; i < kColumns * width; i += kThreads) {
            const int c = i / width, k = i % width;
            if (column0 + c >= p.columns || channel0 + k >= p.channels) continue;
            Accumulator sum = 0;
            for (int l = 0; l < down; ++l) sum += folded[(c * down + l) * width + k];
            const int64_t row = (static_cast<int64_t>(split) * p.rows + row0 + r) * p.samples + sample;
            static_cast<Accumulator*>(
                p.gradients)[(row * p.columns + column0 + c) * p.channels + channel0 + k] = sum;
        }
    }
}

// f(TypeTag<Element>, channels that a thread takes)
template <class F>
auto with_pack(ElementType type, bool paired, F f) {
    return with_element(type, [&](auto tag) {
        using Element = typename decltype(tag)::type;
        return paired ? f(tag, std::integral_constant<int, kPair<Element>>{})
                      : f(tag, std::integral_constant<int, 1>{});
    });
}

}  // namespace

DepthwiseExtent depthwise_extent(ElementType type, bool paired, int64_t channels) {
    return with_pack(type, paired, [&](auto tag, auto pack) {
        using Accumulator = typename AccumulatorOf<typename decltype(tag)::type>::type;
        const int across = threads_across(static_cast<int>(channels), pack.value);
        return DepthwiseExtent{rows_at_once(pack.value, sizeof(Accumulator)), across * pack.value, kColumns,
                               kThreads / across};
    });
}

cudaError_t launch_depthwise(ElementType type, bool paired, const DepthwiseParams& params,
                             cudaStream_t stream) {
    const int64_t blocks =
        params.samples * params.row_blocks * params.splits * params.channel_blocks * params.column_blocks;
    return with_pack(type, paired, [&](auto tag, auto pack) {
        using Element = typename decltype(tag)::type;
        return launch(depthwise_kernel<Element, decltype(pack)::value>, blocks, kThreads, 0, stream, params);
    });
}

}  // namespace gradfast::cuda
