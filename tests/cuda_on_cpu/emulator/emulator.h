// Stands in for nvcc: what csrc/cuda/kernels/device.cuh includes when a host compiler builds a kernel file.
//
// Every CUDA thread of a block is a fiber. Collectives (barriers, shuffles, ldmatrix, mma) are rendezvous of
// fibers; the lane that arrives last does the work for all. Blocks run one after another. Shared memory
// starts as NaN.
//
// GRADFAST_EMULATOR_CP_ASYNC=late (default) moves the bytes of a cp.async when it is waited for, eager at
// once: the two ends of what hardware may do. GRADFAST_EMULATOR_SEED=n shuffles the order in which warps and
// lanes run.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

namespace emulator {

struct Thread {
    uint3 index;
    uint3 block;
    dim3 block_size, grid_size;
    unsigned lane, warp;
};

extern thread_local Thread* self;

void launch(dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body);
void* static_shared(const void* key, size_t bytes);  // one per block and key
void* dynamic_shared();

void sync_threads();
void sync_warp(unsigned mask);
uint64_t shuffle(unsigned mask, uint64_t value, int source_lane);

void async_copy(void* to, const void* from, size_t bytes, size_t from_bytes);  // the rest is zero-filled
void async_commit();
void async_wait(int groups_left);

enum class Half { bf16, fp16 };
void load_matrix_x4(uint32_t* registers, const void* row, bool transposed);
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Half type);
void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b);

}  // namespace emulator

#undef __shared__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline
#ifndef __grid_constant__
#define __grid_constant__
#endif
#define threadIdx (emulator::self->index)
#define blockIdx (emulator::self->block)
#define blockDim (emulator::self->block_size)
#define gridDim (emulator::self->grid_size)

inline void __syncthreads() {
    emulator::sync_threads();
}
inline void __syncwarp(unsigned mask = ~0u) {
    emulator::sync_warp(mask);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = emulator::shuffle(mask, bits, static_cast<int>(emulator::self->lane) ^ lane_mask);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T>
T atomicAdd(T* address, T value) {
    T expected, desired;
    __atomic_load(address, &expected, __ATOMIC_RELAXED);
    do {
        desired = expected + value;
    } while (
        !__atomic_compare_exchange(address, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return expected;
}
