// The inner product of two tiles in shared memory: on tensor cores (TensorTile) or on the FMA units
// (FmaTile).
//
// Storage::k_major holds a tile as [k][m], which is how positions-by-channels operands lie when the positions
// are summed over; Storage::k_minor as [m][k], when the channels are. Rows are padded so that ldmatrix,
// 32-bit and 128-bit reads meet no bank conflict.
#pragma once

#include <type_traits>

#include "contraction.h"
#include "device.cuh"

namespace gradfast::cuda {

enum class Storage { k_major, k_minor };

template <Math kMath>
struct MathTraits;
template <>
struct MathTraits<Math::bf16> {
    using Element = __nv_bfloat16;
};
template <>
struct MathTraits<Math::fp16> {
    using Element = __half;
};
template <>
struct MathTraits<Math::tf32> {
    using Element = float;
};
template <>
struct MathTraits<Math::fp32> {
    using Element = float;
};
template <>
struct MathTraits<Math::fp64> {
    using Element = double;
};

// What both kinds of tile have in common: kM x kN results, kK of the summed dimension at a time.
template <Math kMath, Storage kStorage, int kM_, int kN_, int kThreads_, int kStages_>
struct TileBase {
    using Element = typename MathTraits<kMath>::Element;
    using Accumulator = typename AccumulatorOf<Element>::type;

    static constexpr Math math = kMath;
    static constexpr int kM = kM_, kN = kN_, kThreads = kThreads_, kStages = kStages_;
    static constexpr int kWarps = kThreads / kWarpSize;
    static constexpr int kK = 64 / sizeof(Element);
    static constexpr bool kMajor = kStorage == Storage::k_major;
    static constexpr int kPad = tile_pad_bytes(kMath, kMajor) / sizeof(Element);
    static constexpr int kLeadA = (kMajor ? kM : kK) + kPad;  // elements from one stored row to the next
    static constexpr int kLeadB = (kMajor ? kN : kK) + kPad;
    static constexpr int kSizeA = kLeadA * (kMajor ? kK : kM);
    static constexpr int kSizeB = kLeadB * (kMajor ? kK : kN);
    static constexpr int kDynamicBytes = kStages * (kSizeA + kSizeB) * static_cast<int>(sizeof(Element));
    static constexpr int kCount = kM * kN / kThreads;  // accumulators of a thread

    struct Sums {
        Accumulator value[kCount];

        __device__ __forceinline__ void clear() {
#pragma unroll
            for (int i = 0; i < kCount; ++i) value[i] = Accumulator(0);
        }
    };
};

// mma.m16n8k16 (bf16, fp16) or mma.m16n8k8 (tf32), kWarpsM x kWarpsN warps.
template <Math kMath, Storage kStorage, int kM, int kN, int kWarpsM, int kWarpsN, int kStages>
struct TensorTile : TileBase<kMath, kStorage, kM, kN, kWarpsM * kWarpsN * kWarpSize, kStages> {
    using Base = TileBase<kMath, kStorage, kM, kN, kWarpsM * kWarpsN * kWarpSize, kStages>;
    using typename Base::Element;
    using typename Base::Sums;

    static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
    static constexpr int kBlocksM = kWarpM / 16, kBlocksN = kWarpN / 8;
    static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0);

    static __device__ __forceinline__ int lane() { return threadIdx.x % kWarpSize; }
    static __device__ __forceinline__ int warp_m() { return threadIdx.x / kWarpSize / kWarpsN * kWarpM; }
    static __device__ __forceinline__ int warp_n() { return threadIdx.x / kWarpSize % kWarpsN * kWarpN; }

    // f(i, m, n) for each accumulator i of this thread and its place in the tile.
    template <class F>
    static __device__ __forceinline__ void for_each(F f) {
        const int m0 = warp_m() + lane() / 4, n0 = warp_n() + lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
            for (int j = 0; j < kBlocksN; ++j)
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    f((i * kBlocksN + j) * 4 + r, m0 + i * 16 + (r >> 1) * 8, n0 + j * 8 + (r & 1));
    }

    static __device__ __forceinline__ void multiply(Sums& sums, const Element* a, const Element* b) {
        if constexpr (kMath == Math::tf32)
            multiply_tf32(sums, a, b);
        else
            multiply_half(sums, a, b);
    }

  private:
    static __device__ __forceinline__ void multiply_half(Sums& sums, const Element* a, const Element* b) {
        constexpr bool kMajor = Base::kMajor;
        const int row = lane() % 8, low = lane() / 8 % 2 * 8, high = lane() / 16 * 8;
#pragma unroll
        for (int k = 0; k < Base::kK; k += 16) {
            uint32_t left[kBlocksM][4], right[kBlocksN / 2][4];
#pragma unroll
            for (int i = 0; i < kBlocksM; ++i) {
                const int m = warp_m() + i * 16;
                load_matrix_x4<kMajor>(left[i], kMajor ? a + (k + high + row) * Base::kLeadA + m + low
                                                       : a + (m + low + row) * Base::kLeadA + k + high);
            }
#pragma unroll
            for (int j = 0; j < kBlocksN / 2; ++j) {
                const int n = warp_n() + j * 16;
                load_matrix_x4<kMajor>(right[j], kMajor ? b + (k + low + row) * Base::kLeadB + n + high
                                                        : b + (n + high + row) * Base::kLeadB + k + low);
            }
#pragma unroll
            for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
                for (int j = 0; j < kBlocksN; ++j)
                    mma_16<Element>(sums.value + (i * kBlocksN + j) * 4, left[i], right[j / 2] + j % 2 * 2);
        }
    }

    static __device__ __forceinline__ void multiply_tf32(Sums& sums, const float* a, const float* b) {
        const auto at = [](const float* tile, int lead, int k, int m) {
            return round_to_tf32(Base::kMajor ? tile[k * lead + m] : tile[m * lead + k]);
        };
        const int row = lane() / 4, col = lane() % 4;
#pragma unroll
        for (int k = 0; k < Base::kK; k += 8) {
            uint32_t left[kBlocksM][4], right[kBlocksN][2];
#pragma unroll
            for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    left[i][r] =
                        at(a, Base::kLeadA, k + col + (r >> 1) * 4, warp_m() + i * 16 + row + (r & 1) * 8);
#pragma unroll
            for (int j = 0; j < kBlocksN; ++j)
#pragma unroll
                for (int r = 0; r < 2; ++r)
                    right[j][r] = at(b, Base::kLeadB, k + col + r * 4, warp_n() + j * 8 + row);
#pragma unroll
            for (int i = 0; i < kBlocksM; ++i)
#pragma unroll
                for (int j = 0; j < kBlocksN; ++j)
                    mma_8_tf32(sums.value + (i * kBlocksN + j) * 4, left[i], right[j]);
        }
    }
};

// Every thread 8 x 4 results; 64 x 64 for a block of 128 threads.
template <Math kMath, Storage kStorage, int kStages>
struct FmaTile : TileBase<kMath, kStorage, 64, 64, 128, kStages> {
    using Base = TileBase<kMath, kStorage, 64, 64, 128, kStages>;
    using typename Base::Element;
    using typename Base::Sums;

    static constexpr int kRows = 8, kColumns = 4;
    static constexpr int kThreadsN = 16, kThreadsM = 8;
    static constexpr int kVector = 16 / sizeof(Element);

    struct alignas(16) Vector {
        Element value[kVector];
    };

    static __device__ __forceinline__ int thread_m() { return threadIdx.x / kThreadsN; }
    static __device__ __forceinline__ int thread_n() { return threadIdx.x % kThreadsN; }
    // Along the stored rows a thread takes neighbours, across them it takes every 8th or 16th.
    static __device__ __forceinline__ int m_of(int i) {
        return Base::kMajor ? thread_m() * kRows + i : thread_m() + i * kThreadsM;
    }
    static __device__ __forceinline__ int n_of(int j) {
        return Base::kMajor ? thread_n() * kColumns + j : thread_n() + j * kThreadsN;
    }

    template <class F>
    static __device__ __forceinline__ void for_each(F f) {
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) f(i * kColumns + j, m_of(i), n_of(j));
    }

    static __device__ __forceinline__ void multiply(Sums& sums, const Element* a, const Element* b) {
        if constexpr (Base::kMajor) {
#pragma unroll
            for (int k = 0; k < Base::kK; ++k) {
                Vector left[kRows / kVector], right[kColumns / kVector];
#pragma unroll
                for (int i = 0; i < kRows / kVector; ++i)
                    left[i] = load(a + k * Base::kLeadA + m_of(i * kVector));
#pragma unroll
                for (int j = 0; j < kColumns / kVector; ++j)
                    right[j] = load(b + k * Base::kLeadB + n_of(j * kVector));
#pragma unroll
                for (int i = 0; i < kRows; ++i)
#pragma unroll
                    for (int j = 0; j < kColumns; ++j)
                        sums.value[i * kColumns + j] +=
                            left[i / kVector].value[i % kVector] * right[j / kVector].value[j % kVector];
            }
        } else {
#pragma unroll
            for (int k = 0; k < Base::kK; k += kVector) {
                Vector left[kRows], right[kColumns];
#pragma unroll
                for (int i = 0; i < kRows; ++i) left[i] = load(a + m_of(i) * Base::kLeadA + k);
#pragma unroll
                for (int j = 0; j < kColumns; ++j) right[j] = load(b + n_of(j) * Base::kLeadB + k);
#pragma unroll
                for (int i = 0; i < kRows; ++i)
#pragma unroll
                    for (int j = 0; j < kColumns; ++j)
#pragma unroll
                        for (int e = 0; e < kVector; ++e)
                            sums.value[i * kColumns + j] += left[i].value[e] * right[j].value[e];
            }
        }
    }

  private:
    static __device__ __forceinline__ Vector load(const Element* p) {
        return *reinterpret_cast<const Vector*>(p);
    }
};

template <Math kMath, Storage kStorage>
using SmallTile = std::conditional_t<on_tensor_cores(kMath), TensorTile<kMath, kStorage, 64, 64, 2, 2, 4>,
                                     FmaTile<kMath, kStorage, 3>>;

template <Math kMath, Storage kStorage>
using LargeTile = std::conditional_t<on_tensor_cores(kMath), TensorTile<kMath, kStorage, 128, 128, 2, 2, 4>,
                                     FmaTile<kMath, kStorage, 3>>;

// Whether a tile is what the host takes it for.
template <class T>
constexpr bool is_extent(const TileExtent& e) {
    return e == TileExtent{T::kM, T::kN, T::kK, T::kStages, T::kThreads, T::kDynamicBytes};
}

// f(tile) for one kind of arithmetic; kTile is SmallTile or LargeTile.
template <template <Math, Storage> class kTile, Storage kStorage, class F>
auto with_tile(Math math, F f) {
    switch (math) {
        case Math::bf16:
            return f(kTile<Math::bf16, kStorage>{});
        case Math::fp16:
            return f(kTile<Math::fp16, kStorage>{});
        case Math::tf32:
            return f(kTile<Math::tf32, kStorage>{});
        case Math::fp32:
            return f(kTile<Math::fp32, kStorage>{});
        case Math::fp64:
            break;
    }
    return f(kTile<Math::fp64, kStorage>{});
}

}  // namespace gradfast::cuda
