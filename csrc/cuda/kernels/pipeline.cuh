// What the contraction kernels share: where a block is, the multi-stage copy pipeline, the block's reduction.
#pragma once

#include "operand.cuh"
#include "tile.cuh"

namespace gradfast::cuda {

// A tile of one sample and group for a run of rows. The tiles of one sample run side by side, so that they
// find its operands in L2.
struct TileBlock {
    int64_t sample;
    int row0, rows;
    int part, group, tile_m, tile_n;
};

template <class Params>
__device__ __forceinline__ TileBlock tile_block(const Params& p) {
    const int64_t block = p.first_block + blockIdx.x;
    const int parts = p.groups * p.tiles_m * p.tiles_n;
    const int64_t sample_and_rows = block / parts;
    TileBlock b;
    b.part = static_cast<int>(block % parts);
    b.sample = sample_and_rows / p.row_blocks;
    b.row0 = static_cast<int>(sample_and_rows % p.row_blocks) * p.rows_per_block;
    b.rows = p.rows - b.row0 < p.rows_per_block ? p.rows - b.row0 : p.rows_per_block;
    b.tile_n = b.part % p.tiles_n;
    b.tile_m = b.part / p.tiles_n % p.tiles_m;
    b.group = b.part / p.tiles_n / p.tiles_m;
    return b;
}

// issue(stage) is called total times, in order, and starts the copies of one step; consume(stage) follows it
// kStages - 1 steps later, when they have arrived. One barrier a step: it also tells that everybody is done
// with the stage that the next issue overwrites.
template <int kStages, class Issue, class Consume>
__device__ __forceinline__ void pipeline(int total, Issue issue, Consume consume) {
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
        if (step < total) issue(step);
        commit_async();
    }
    int read = 0, write = kStages - 1;
    for (int step = 0; step < total; ++step) {
        wait_async<kStages - 2>();
        __syncthreads();
        if (step + kStages - 1 < total) issue(write);
        commit_async();
        consume(read);
        read = read + 1 == kStages ? 0 : read + 1;
        write = write + 1 == kStages ? 0 : write + 1;
    }
    wait_async<0>();
    __syncthreads();
}

// A tile [kK positions, kColumns columns], as it lies in memory: the positions are summed over.
template <class T, int kColumns, int kLead>
__device__ __forceinline__ void stage_k_major(typename T::Element* tile, const Operand& op,
                                              const typename T::Element* base, const Positions& positions,
                                              int t0, int column0) {
    constexpr int kVector = kChunk<typename T::Element>;
    constexpr int kAcross = kColumns / kVector;  // chunks of one position
    static_assert(T::kThreads % kAcross == 0 || kAcross % T::kThreads == 0);
#pragma unroll
    for (int i = threadIdx.x; i < T::kK * kAcross; i += T::kThreads) {
        const int k = i / kAcross, column = i % kAcross * kVector;
        stage_chunk(tile + k * kLead + column, op, base, pixel_of(op, positions, t0 + k), column0 + column);
    }
}

// A tile [kRows positions, kK columns]: the columns are summed over.
template <class T, int kRows, int kLead>
__device__ __forceinline__ void stage_k_minor(typename T::Element* tile, const Operand& op,
                                              const typename T::Element* base, const Positions& positions,
                                              int t0, int column0) {
    constexpr int kVector = kChunk<typename T::Element>;
    constexpr int kAcross = T::kK / kVector;
#pragma unroll
    for (int i = threadIdx.x; i < kRows * kAcross; i += T::kThreads) {
        const int m = i / kAcross, column = i % kAcross * kVector;
        stage_chunk(tile + m * kLead + column, op, base, pixel_of(op, positions, t0 + m), column0 + column);
    }
}

// Sums one number a thread for each of a block's items; one item is one place of the result.
template <class Accumulator, int kWarps>
struct ItemSums {
    Accumulator* partial;  // [kMaxItems, kWarps], shared

    __device__ __forceinline__ void put(int item, Accumulator value) {
        value = warp_sum(value);
        if (threadIdx.x % kWarpSize == 0) partial[item * kWarps + threadIdx.x / kWarpSize] = value;
    }
    // After a barrier: index(item) is the item's place in the result.
    template <class Index>
    __device__ __forceinline__ void send(int items, const Destination& to, int64_t part, Index index) {
        const int item = threadIdx.x;
        if (item >= items) return;
        Accumulator sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += partial[item * kWarps + w];
        if (to.partial)
            static_cast<Accumulator*>(to.partial)[index(item) * to.parts + part] = sum;
        else
            atomicAdd(static_cast<Accumulator*>(to.out) + index(item), sum);
    }
};

}  // namespace gradfast::cuda
