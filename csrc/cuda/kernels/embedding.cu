// A sample's tokens come sorted, so that equal ones are neighbours: a thread owns one column, walks along the
// positions and squares its sum at the end of each run.
#include "element.cuh"
#include "embedding.h"
#include "triangle.cuh"

namespace gradfast::cuda {
namespace {

constexpr int kWarps = kEmbeddingThreads / kWarpSize;
constexpr int kAtOnce = 4;  // loads in flight

template <class Accumulator>
__device__ __forceinline__ void send(const EmbeddingParams& p, Accumulator value, int64_t index, int part) {
    GRADFAST_SHARED(Accumulator, partial, kWarps);
    value = warp_sum(value);
    if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
    __syncthreads();
    if (threadIdx.x != 0) return;
    Accumulator sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w];
    if (p.destination.partial)
        static_cast<Accumulator*>(p.destination.partial)[index * p.destination.parts + part] = sum;
    else
        atomicAdd(static_cast<Accumulator*>(p.destination.out) + index, sum);
}

template <class Element>
__global__ void __launch_bounds__(kEmbeddingThreads) runs_kernel(const __grid_constant__ EmbeddingParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    const int64_t block = p.first_block + blockIdx.x;
    const int part = static_cast<int>(block % p.parts);
    const int item = static_cast<int>(block / p.parts % p.items);
    const int64_t sample = block / p.parts / p.items;
    const Pair rows = p.cross ? triangular(item) : Pair{item, item};
    const int column = part * kEmbeddingThreads + threadIdx.x;

    const auto* tokens = p.tokens + sample * p.positions;
    const auto* order = p.order + sample * p.positions;
    const auto cotangents = [&](int row) {
        return static_cast<const Element*>(p.g) + (row * p.samples + sample) * p.positions * p.width + column;
    };
    const auto *left = cotangents(rows.first), *right = cotangents(rows.second);
    const bool one = rows.first == rows.second;

    Accumulator sum = 0, left_run = 0, right_run = 0;
    for (int64_t t0 = 0; column < p.width && t0 < p.positions; t0 += kAtOnce) {
        Accumulator l[kAtOnce], r[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            const bool present = t0 + i < p.positions && tokens[t0 + i] != p.padding;
            const int64_t at = present ? order[t0 + i] * p.width : 0;
            l[i] = present ? widen(left[at]) : Accumulator(0);
            r[i] = one || !present ? l[i] : widen(right[at]);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            const int64_t t = t0 + i;
            if (t >= p.positions) break;
            left_run += l[i], right_run += r[i];
            if (t + 1 < p.positions && tokens[t + 1] == tokens[t]) continue;
            sum += left_run * right_run;
            left_run = right_run = 0;
        }
    }
    const int64_t index =
        p.cross ? (sample * p.rows + rows.first) * p.rows + rows.second : sample * p.rows + rows.first;
    send(p, sum, index, part);
}

template <class Element>
__global__ void __launch_bounds__(kEmbeddingThreads) dot_kernel(const __grid_constant__ EmbeddingParams p) {
    using Accumulator = typename AccumulatorOf<Element>::type;
    const int64_t block = p.first_block + blockIdx.x;
    const int part = static_cast<int>(block % p.parts);
    const int row = static_cast<int>(block / p.parts % p.items);
    const int64_t sample = block / p.parts / p.items;
    const int64_t begin = static_cast<int64_t>(part) * kEmbeddingDotPositions;
    const int64_t end =
        begin + kEmbeddingDotPositions < p.positions ? begin + kEmbeddingDotPositions : p.positions;
    Accumulator sum = 0;
    for (int64_t t = begin; t < end; ++t) {
        const int64_t token = p.tokens[sample * p.positions + t];
        if (token == p.padding) continue;
        if (token < 0 || token >= p.entries) {  // the table has no such row: no number would be right
            sum += Accumulator(NAN);
            continue;
        }
        const auto* g =
            static_cast<const Element*>(p.g) + ((row * p.samples + sample) * p.positions + t) * p.width;
        const auto* reference = static_cast<const Element*>(p.table) + token * p.width;
        for (int i = threadIdx.x; i < p.width; i += kEmbeddingThreads)
            sum += widen(g[i]) * widen(reference[i]);
    }
    send(p, sum, sample * p.rows + row, part);
}

}  // namespace

cudaError_t launch_embedding_runs(ElementType type, int64_t blocks, const EmbeddingParams& params,
                                  cudaStream_t stream) {
    return with_element(type, [&](auto tag) {
        return launch(runs_kernel<typename decltype(tag)::type>, blocks, kEmbeddingThreads, 0, stream,
                      params);
    });
}

cudaError_t launch_embedding_dot(ElementType type, int64_t blocks, const EmbeddingParams& params,
                                 cudaStream_t stream) {
    return with_element(type, [&](auto tag) {
        return launch(dot_kernel<typename decltype(tag)::type>, blocks, kEmbeddingThreads, 0, stream, params);
    });
}

}  // namespace gradfast::cuda
