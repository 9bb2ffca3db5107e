// One pass over the cotangents of all rows. The gate and the normalized inputs are read once for several
// rows; what leaves are the gated and scaled cotangents, if wanted, and sums over positions that are [rows,
// samples, channels].
#include "channel.h"
#include "element.cuh"

namespace gradfast::cuda {
namespace {

constexpr int kThreads = 256;

// Rows that share what is read of the gate and the inputs, and bytes of a thread's access: as much as fits
// into 128 registers without a spill.
template <int kAffine>
constexpr int kRowsAtOnce = kAffine == 0 ? 6 : 3;
__host__ __device__ constexpr int pack_bytes(int affine) {
    return affine == kMaxAffine ? 8 : 16;
}

template <class Element, int kPack, int kAffine>
struct Channels {
    using Accumulator = typename AccumulatorOf<Element>::type;
    using P = Pack<Element, kPack>;
    static constexpr int kRows = kRowsAtOnce<kAffine>;

    // The normalized inputs of one position and pack of channels.
    struct Normalizer {
        Accumulator mean[kPack], rstd[kPack];
    };

    static __device__ __forceinline__ void load_normalizers(const ChannelParams& p, int channel,
                                                            Normalizer* to) {
#pragma unroll
        for (int k = 0; k < kAffine; ++k)
#pragma unroll
            for (int e = 0; e < kPack; ++e) {
                const auto* mean = static_cast<const Accumulator*>(p.mean[k]);
                const auto* rstd = static_cast<const Accumulator*>(p.rstd[k]);
                to[k].mean[e] = mean ? mean[channel + e] : Accumulator(0);
                to[k].rstd[e] = rstd ? rstd[channel + e] : Accumulator(1);
            }
    }

    static __device__ __forceinline__ void store_scaled(const ChannelParams& p, int k, int channel,
                                                        int64_t at, const Accumulator (&v)[kPack]) {
        if (!p.scaled[k]) return;
        P pack;
#pragma unroll
        for (int e = 0; e < kPack; ++e)
            narrow(v[e] * static_cast<const Accumulator*>(p.factor[k])[channel + e], &pack.value[e]);
        store_pack<Element, kPack>(p.scaled[k], at, pack);
    }
};

// Blocks that a multiprocessor must hold at least, as many as fit without a spill. Where nothing is said,
// ptxas goes for one more here and there, and keeps a value on the stack for it.
template <class Element, int kPack>
constexpr int kLeastBlocks = kPack == 1 && sizeof(Element) < 8 ? 4 : 2;

template <class Element, int kPack, int kAffine>
__global__ void __launch_bounds__(kThreads, (kLeastBlocks<Element, kPack>))
    channel_sums_kernel(const __grid_constant__ ChannelParams p) {
    using C = Channels<Element, kPack, kAffine>;
    using Accumulator = typename C::Accumulator;
    constexpr int kRows = C::kRows, kSums = 1 + kAffine;
    GRADFAST_SHARED(Accumulator, folded, kThreads * kPack);

    int64_t block = blockIdx.x;
    const int channel_block = static_cast<int>(block % p.channel_blocks);
    block /= p.channel_blocks;
    const int split = static_cast<int>(block % p.splits);
    block /= p.splits;
    const int row0 = static_cast<int>(block % p.row_blocks) * kRows;
    const int64_t sample = block / p.row_blocks;

    const int across = threads_across(p.channels, kPack), down = kThreads / across;
    const int column = threadIdx.x % across, line = threadIdx.x / across;
    const int channel = (channel_block * across + column) * kPack;
    const bool present = channel < p.channels;
    const int64_t begin = split * p.positions_per_split;
    const int64_t end =
        begin + p.positions_per_split < p.positions ? begin + p.positions_per_split : p.positions;
    const int64_t row_stride = p.samples * p.positions * p.channels;

    Accumulator sums[kRows][kSums][kPack] = {};
    typename C::Normalizer normalizer[kAffine > 0 ? kAffine : 1];
    if (present) C::load_normalizers(p, channel, normalizer);

    for (int64_t t = begin + line; present && t < end; t += down) {
        const int64_t at = (sample * p.positions + t) * p.channels + channel;
        Accumulator gate[kPack] = {}, xhat[kAffine > 0 ? kAffine : 1][kPack];
        if (p.gate) {
            const auto pack = load_pack<Element, kPack>(p.gate, at);
#pragma unroll
            for (int e = 0; e < kPack; ++e) gate[e] = widen(pack.value[e]);
        }
#pragma unroll
        for (int k = 0; k < kAffine; ++k) {
            const auto pack = load_pack<Element, kPack>(p.x[k], at);
#pragma unroll
            for (int e = 0; e < kPack; ++e)
                xhat[k][e] = (widen(pack.value[e]) - normalizer[k].mean[e]) * normalizer[k].rstd[e];
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (row0 + r >= p.rows) break;
            const int64_t at_row = (row0 + r) * row_stride + at;
            const auto pack = load_pack<Element, kPack>(p.g, at_row);
            Accumulator v[kPack];
            typename C::P gated;
#pragma unroll
            for (int e = 0; e < kPack; ++e) {
                v[e] = widen(pack.value[e]);
                if (p.gate) v[e] = p.multiply ? v[e] * gate[e] : gate[e] <= 0 ? Accumulator(0) : v[e];
                narrow(v[e], &gated.value[e]);
                sums[r][0][e] += v[e];
#pragma unroll
                for (int k = 0; k < kAffine; ++k) sums[r][1 + k][e] += v[e] * xhat[k][e];
            }
            if (p.out) store_pack<Element, kPack>(p.out, at_row, gated);
#pragma unroll
            for (int k = 0; k < kAffine; ++k) C::store_scaled(p, k, channel, at_row, v);
        }
    }

    // Fold the positions of the block's lines together, one sum at a time.
    const int first_sum = p.bias ? 0 : 1, sum_count = kSums - first_sum;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (row0 + r >= p.rows) break;
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
            if (k < first_sum) continue;
            __syncthreads();
#pragma unroll
            for (int e = 0; e < kPack; ++e) folded[(line * across + column) * kPack + e] = sums[r][k][e];
            __syncthreads();
            for (int i = threadIdx.x; i < across * kPack; i += kThreads) {
                const int c = channel_block * across * kPack + i;
                if (c >= p.channels) continue;
                Accumulator sum = 0;
                for (int l = 0; l < down; ++l) sum += folded[l * across * kPack + i];
                const int64_t to =
                    ((static_cast<int64_t>(split * sum_count + k - first_sum) * p.rows + row0 + r) *
                         p.samples +
                     sample) *
                        p.channels +
                    c;
                static_cast<Accumulator*>(p.sums)[to] = sum;
            }
        }
    }
}

template <class Element>
__global__ void __launch_bounds__(kThreads) plane_sums_kernel(const __grid_constant__ PlaneParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    constexpr int kWarps = kThreads / kWarpSize, kAtOnce = 4;
    const int lane = threadIdx.x % kWarpSize;
    for (int64_t plane = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
         plane < p.planes; plane += static_cast<int64_t>(gridDim.x) * kWarps) {
        const auto* g = static_cast<const Element*>(p.g) + plane * p.positions;
        const auto* xhat = static_cast<const Element*>(p.xhat) + plane % p.planes_of_row * p.positions;
        Accumulator sum = 0;
        for (int64_t t0 = lane; t0 < p.positions; t0 += kAtOnce * kWarpSize) {
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int64_t t = t0 + i * kWarpSize;
                if (t < p.positions) sum += p.xhat ? widen(g[t]) * widen(xhat[t]) : widen(g[t]);
            }
        }
        sum = warp_sum(sum);
        if (lane == 0) static_cast<Accumulator*>(p.sums)[plane] = sum;
    }
}

// One warp for each number of the result.
template <class Element>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const __grid_constant__ ReduceParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    constexpr int kWarps = kThreads / kWarpSize;
    const int lane = threadIdx.x % kWarpSize;
    const int64_t split_stride = p.rows * p.samples * p.channels;
    const auto value = [&](int row, int64_t sample, int channel) {
        const auto* at =
            static_cast<const Accumulator*>(p.sums) + (row * p.samples + sample) * p.channels + channel;
        Accumulator sum = 0;
        for (int split = 0; split < p.splits; ++split) sum += at[split * split_stride];
        return sum;
    };
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
         i < p.samples * p.items; i += static_cast<int64_t>(gridDim.x) * kWarps) {
        const int64_t sample = i / p.items;
        const int item = static_cast<int>(i % p.items);
        const bool gram = p.reduction == Reduction::gram;
        const int row = gram ? item / p.rows : item, other = gram ? item % p.rows : item;
        Accumulator sum = 0;
        for (int channel = lane; channel < p.channels; channel += kWarpSize) {
            const Accumulator left = value(row, sample, channel);
            Accumulator right = left;
            if (p.reduction == Reduction::dot) right = widen(static_cast<const Element*>(p.ref)[channel]);
            if (row != other) right = value(other, sample, channel);
            sum += left * right;
        }
        sum = warp_sum(sum);
        if (lane == 0) static_cast<Accumulator*>(p.out)[i] = sum;
    }
}

// T = 1: ||g x'||^2 = ||g||^2 ||x||^2.
template <class Element>
__global__ void __launch_bounds__(kRankOneRows* kWarpSize)
    rank_one_kernel(const __grid_constant__ RankOneParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    constexpr int kBlock = kRankOneRows * kWarpSize;
    GRADFAST_SHARED(Accumulator, partial, kRankOneRows);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const int64_t sample = blockIdx.x / p.row_blocks;
    const int row = static_cast<int>(blockIdx.x % p.row_blocks) * kRankOneRows + warp;

    const auto* x = static_cast<const Element*>(p.x) + sample * p.inputs;
    Accumulator square = 0;
    for (int64_t i = threadIdx.x; i < p.inputs; i += kBlock) {
        const auto v = widen(x[i]);
        square += v * v;
    }
    square = warp_sum(square);
    if (lane == 0) partial[warp] = square;
    __syncthreads();
    Accumulator of_x = 0;
#pragma unroll
    for (int w = 0; w < kRankOneRows; ++w) of_x += partial[w];

    if (row >= p.rows) return;
    const auto* g = static_cast<const Element*>(p.g) + (row * p.samples + sample) * p.outputs;
    Accumulator of_g = 0;
    for (int64_t i = lane; i < p.outputs; i += kWarpSize) {
        const auto v = widen(g[i]);
        of_g += v * v;
    }
    of_g = warp_sum(of_g);
    if (lane == 0) static_cast<Accumulator*>(p.out)[sample * p.rows + row] = of_x * of_g;
}

int64_t at_most(int64_t blocks, int64_t most) {
    return blocks < most ? blocks : most;
}

constexpr int64_t kMostBlocks = 1 << 20;  // of kernels that go over the rest themselves

}  // namespace

ChannelExtent channel_extent(ElementType type, int affine, bool vectorized, int64_t channels) {
    return with_element(type, [&](auto tag) {
        using Element = typename decltype(tag)::type;
        const int pack = vectorized ? pack_bytes(affine) / static_cast<int>(sizeof(Element)) : 1;
        const int across = threads_across(static_cast<int>(channels), pack);
        const int rows = affine == 0 ? kRowsAtOnce<0> : affine == 1 ? kRowsAtOnce<1> : kRowsAtOnce<2>;
        return ChannelExtent{rows, across * pack, kThreads / across};
    });
}

cudaError_t launch_channel_sums(ElementType type, bool vectorized, const ChannelParams& params,
                                cudaStream_t stream) {
    const int64_t blocks = params.samples * params.row_blocks * params.splits * params.channel_blocks;
    return with_element(type, [&](auto tag) {
        using Element = typename decltype(tag)::type;
        const auto go = [&](auto affine) {
            constexpr int kAffine = decltype(affine)::value;
            constexpr int kPack = pack_bytes(kAffine) / static_cast<int>(sizeof(Element));
            return vectorized ? launch(channel_sums_kernel<Element, kPack, kAffine>, blocks, kThreads, 0,
                                       stream, params)
                              : launch(channel_sums_kernel<Element, 1, kAffine>, blocks, kThreads, 0, stream,
                                       params);
        };
        return params.affine == 0   ? go(std::integral_constant<int, 0>{})
               : params.affine == 1 ? go(std::integral_constant<int, 1>{})
                                    : go(std::integral_constant<int, 2>{});
    });
}

cudaError_t launch_plane_sums(ElementType type, const PlaneParams& params, cudaStream_t stream) {
    const int64_t blocks =
        at_most((params.planes + kThreads / kWarpSize - 1) / (kThreads / kWarpSize), kMostBlocks);
    return with_element(type, [&](auto tag) {
        return launch(plane_sums_kernel<typename decltype(tag)::type>, blocks, kThreads, 0, stream, params);
    });
}

cudaError_t launch_reduce(ElementType type, const ReduceParams& params, cudaStream_t stream) {
    const int64_t numbers = params.samples * params.items;
    const int64_t blocks =
        at_most((numbers + kThreads / kWarpSize - 1) / (kThreads / kWarpSize), kMostBlocks);
    return with_element(type, [&](auto tag) {
        return launch(reduce_kernel<typename decltype(tag)::type>, blocks, kThreads, 0, stream, params);
    });
}

cudaError_t launch_rank_one(ElementType type, const RankOneParams& params, cudaStream_t stream) {
    return with_element(type, [&](auto tag) {
        return launch(rank_one_kernel<typename decltype(tag)::type>, params.samples * params.row_blocks,
                      kRankOneRows * kWarpSize, 0, stream, params);
    });
}

}  // namespace gradfast::cuda
