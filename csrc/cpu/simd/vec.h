// Vectors as wide as the instruction set, by the compiler's vector extensions.
// No header of torch or of the C++ library here: their inline functions would be merged across instruction
// sets.
#pragma once

#include <cstdint>

#if defined(__AVX512F__) || defined(__F16C__)
// GCC 12 takes the deliberately undefined operands of its own intrinsics for uninitialised ones (its bug
// 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Bits of the 16-bit formats; storage only.
struct Bf16 {
    uint16_t bits;
};
struct Fp16 {
    uint16_t bits;
};

template <typename A>
struct VecOf {
    static constexpr int width = kVectorBytes / sizeof(A);
    typedef A type __attribute__((vector_size(kVectorBytes)));
    typedef A unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
};
template <typename A>
using Vec = typename VecOf<A>::type;
template <typename A>
constexpr int kWidth = VecOf<A>::width;

typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t UnalignedBits16 __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

inline Vec<float> load(const float* p) {
    return *reinterpret_cast<const VecOf<float>::unaligned*>(p);
}
inline Vec<double> load(const double* p) {
    return *reinterpret_cast<const VecOf<double>::unaligned*>(p);
}
inline void store(float* p, Vec<float> v) {
    *reinterpret_cast<VecOf<float>::unaligned*>(p) = v;
}
inline void store(double* p, Vec<double> v) {
    *reinterpret_cast<VecOf<double>::unaligned*>(p) = v;
}

inline Vec<float> load(const Bf16* p) {
    const Bits16 half = *reinterpret_cast<const UnalignedBits16*>(p);
    return (Vec<float>)(__builtin_convertvector(half, Bits32) << 16);
}

inline float to_float(Bf16 v) {
    const uint32_t bits = uint32_t{v.bits} << 16;
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

inline float to_float(Fp16 v) {
    const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, exponent = (v.bits >> 10) & 31,
                   mantissa = v.bits & 1023;
    uint32_t bits;
    if (exponent == 0) {
        const float magnitude = float(mantissa) * 5.9604644775390625e-8f;  // subnormal: mantissa * 2^-24
        return sign ? -magnitude : magnitude;
    }
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

inline float to_float(float v) {
    return v;
}
inline double to_float(double v) {
    return v;
}

inline Vec<float> load(const Fp16* p) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && defined(__AVX__)
    return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    float lanes[kWidth<float>];
    for (int i = 0; i < kWidth<float>; ++i) lanes[i] = to_float(p[i]);
    return load(lanes);
#endif
}

// The type that values of a storage type are added up in.
template <typename S>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
template <typename S>
using Accumulator = typename AccumulatorOf<S>::type;

// The first n lanes, 0 < n < width; the others are zero.
template <typename S>
inline Vec<Accumulator<S>> load(const S* p, int64_t n) {
    using A = Accumulator<S>;
    A lanes[kWidth<A>] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = to_float(p[i]);
    return load(lanes);
}

// Stores the first n lanes, 0 < n < width.
inline void store(double* p, Vec<double> v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}

#if defined(__AVX512F__)
inline Vec<float> load(const float* p, int64_t n) {
    return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
inline void store(float* p, Vec<float> v, int64_t n) {
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
#elif defined(__AVX2__)
inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec<float> load(const float* p, int64_t n) {
    return (Vec<float>)_mm256_maskload_ps(p, first_lanes(n));
}
inline void store(float* p, Vec<float> v, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), (__m256)v);
}
#else
inline void store(float* p, Vec<float> v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
}
#endif

// The first n lanes, at most all of them; the others are zero.
template <typename T>
inline Vec<float> load_lanes(const T* p, int64_t n) {
    return n >= kWidth<float> ? load(p) : load(p, n);
}

// Round to nearest even; a NaN stays one.
inline void store(Bf16* p, Vec<float> v) {
#if defined(__AVX512BF16__)
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    __builtin_memcpy(p, &rounded, sizeof rounded);
#else
    const Bits32 bits = (Bits32)v;
    const Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits32 is_number = (Bits32)(v == v);
    const Bits32 kept = (rounded & is_number) | (0x7fc0 & ~is_number);
    *reinterpret_cast<UnalignedBits16*>(p) = __builtin_convertvector(kept, Bits16);
#endif
}

template <typename T>
inline void store_lanes(T* p, Vec<float> v, int64_t n) {
    if (n >= kWidth<float>) {
        store(p, v);
        return;
    }
    T lanes[kWidth<float>];
    store(lanes, v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// Sum of the lanes, in halves.
template <typename V, typename A>
inline A sum_lanes(V v, A) {
    A lanes[kWidth<A>];
    store(lanes, v);
    for (int half = kWidth<A> / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}
inline float sum(Vec<float> v) {
    return sum_lanes(v, 0.f);
}
inline double sum(Vec<double> v) {
    return sum_lanes(v, 0.);
}

}  // namespace
}  // namespace gradfast::cpu::GRADFAST_ARCH
