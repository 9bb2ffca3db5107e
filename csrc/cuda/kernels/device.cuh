// The device primitives of the kernels, and the one place that tells nvcc from the CPU emulator of the tests.
//
// Kernels never include a torch header: they take a struct of plain numbers and pointers and run on a stream.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#define GRADFAST_SHARED(type, name, count) __shared__ type name[count]
#else
#include "emulator.h"
#define GRADFAST_SHARED(type, name, count) \
    static char name##_key;                \
    type* name = static_cast<type*>(emulator::static_shared(&name##_key, sizeof(type) * (count)))
#endif

namespace gradfast::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#if defined(__CUDACC__)

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
    return reinterpret_cast<T*>(dynamic_shared_bytes);
}

// 4, 8 or 16 bytes from global to shared memory, past the registers (16 past L1, too); without present they
// are zeros and nothing is read.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const int bytes = present ? kBytes : 0;
    if constexpr (kBytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes),
                     "r"(bytes)
                     : "memory");
}
__device__ __forceinline__ void commit_async() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kGroupsLeft>
__device__ __forceinline__ void wait_async() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
template <bool kTransposed>
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kTransposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
}

// d [16, 8] += a [16, 16] b [16, 8]
template <class Element>
__device__ __forceinline__ void mma_16(float* d, const uint32_t* a, const uint32_t* b);

template <>
__device__ __forceinline__ void mma_16<__nv_bfloat16>(float* d, const uint32_t* a, const uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_16<__half>(float* d, const uint32_t* a, const uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d [16, 8] += a [16, 8] b [8, 8]
__device__ __forceinline__ void mma_8_tf32(float* d, const uint32_t* a, const uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Round to nearest: the tensor core itself would cut the lower 13 bits off, which biases a sum of squares.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) {
    return __umulhi(a, b);
}

template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int threads, int dynamic_bytes,
                   cudaStream_t stream, const Params& params) {
    if (dynamic_bytes > 48 * 1024) {
        const auto status =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
        if (status != cudaSuccess) return status;
    }
    kernel<<<static_cast<unsigned>(blocks), threads, dynamic_bytes, stream>>>(params);
    return cudaGetLastError();
}

#else  // the emulator

template <class T>
T* dynamic_shared() {
    return static_cast<T*>(emulator::dynamic_shared());
}

template <int kBytes>
void copy_async(void* to, const void* from, bool present) {
    emulator::async_copy(to, from, kBytes, present ? kBytes : 0);
}
inline void commit_async() {
    emulator::async_commit();
}
template <int kGroupsLeft>
void wait_async() {
    emulator::async_wait(kGroupsLeft);
}

template <bool kTransposed>
void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    emulator::load_matrix_x4(r, row, kTransposed);
}

template <class Element>
void mma_16(float* d, const uint32_t* a, const uint32_t* b) {
    emulator::mma_m16n8k16(
        d, a, b,
        sizeof(Element*) && std::is_same_v<Element, __half> ? emulator::Half::fp16 : emulator::Half::bf16);
}
inline void mma_8_tf32(float* d, const uint32_t* a, const uint32_t* b) {
    emulator::mma_m16n8k8_tf32(d, a, b);
}

inline uint32_t round_to_tf32(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

inline uint32_t multiply_high(uint32_t a, uint32_t b) {
    return static_cast<uint32_t>((uint64_t{a} * b) >> 32);
}

template <class Params>
cudaError_t launch(void (*kernel)(Params), int64_t blocks, int threads, int dynamic_bytes, cudaStream_t,
                   const Params& params) {
    emulator::launch(dim3(static_cast<unsigned>(blocks)), dim3(threads), dynamic_bytes,
                     [&] { kernel(params); });
    return cudaSuccess;
}

#endif

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
    return value;
}

// The accumulator that a loaded element goes into: double for double, float for every other.
__device__ __forceinline__ float widen(float v) {
    return v;
}
__device__ __forceinline__ double widen(double v) {
    return v;
}
__device__ __forceinline__ float widen(__nv_bfloat16 v) {
    return __bfloat162float(v);
}
__device__ __forceinline__ float widen(__half v) {
    return __half2float(v);
}

template <class Element>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};

}  // namespace gradfast::cuda
