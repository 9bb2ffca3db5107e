// One step of a product for each type of operand: `Unit` is what one multiply-add of one lane consumes.
#pragma once

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

template <typename Unit>
struct Multiply {
    using Sum = Unit;
    using Operand = Vec<Unit>;
    using Scalar = Unit;
    static constexpr int elements = kWidth<Unit>;  // of storage, in one Operand

    static Operand load(const Unit* p) { return GRADFAST_ARCH::load(p); }
    static Operand load_elements(const Unit* p, int64_t n) { return GRADFAST_ARCH::load(p, n); }
    static Operand broadcast(Unit v) { return v - Operand{}; }
    static void add(Vec<Sum>& sum, Operand a, Operand b) { sum += a * b; }
};

// Two bf16 that lie side by side, both multiplied and added in one step.
struct Bf16Pair {
    Bf16 even, odd;
};

#if defined(__AVX512BF16__)
template <>
struct Multiply<Bf16Pair> {
    using Sum = float;
    using Operand = __m512i;
    static constexpr int elements = 32;

    static Operand load(const Bf16Pair* p) { return _mm512_loadu_si512(p); }
    static Operand load_elements(const Bf16Pair* p, int64_t n) {
        return _mm512_maskz_loadu_epi16(__mmask32((1ull << n) - 1), p);
    }
    static Operand broadcast(Bf16Pair v) {
        int32_t bits;
        __builtin_memcpy(&bits, &v, sizeof bits);
        return _mm512_set1_epi32(bits);
    }
    static void add(Vec<float>& sum, Operand a, Operand b) {
        sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }
};
#endif

// What products of a storage type are taken in, and how many of its elements one takes: of bf16, pairs where
// the processor multiplies them, else float.
template <typename T>
struct UnitOf {
    using type = float;
    static constexpr int64_t elements = 1;
};
#if defined(__AVX512BF16__)
template <>
struct UnitOf<Bf16> {
    using type = Bf16Pair;
    static constexpr int64_t elements = 2;
};
#endif

}  // namespace
}  // namespace gradfast::cpu::GRADFAST_ARCH
