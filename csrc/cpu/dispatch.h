// Choice of an instruction set at run time.
//
// Every file in csrc/cpu/simd is compiled once per instruction set, into the namespace
// gradfast::cpu::GRADFAST_ARCH. A header declares a kernel for all of them with GRADFAST_SIMD_KERNEL, and a
// caller takes the fastest one that this processor runs with GRADFAST_SIMD(kernel).
#pragma once

#include <vector>

namespace gradfast::cpu {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3 };

// The highest instruction set that was built and that this processor runs. The environment variable
// GRADFAST_CPU_ISA (baseline, avx2, avx512, avx512bf16) lowers it; read once, at first use.
Isa isa();

// The instruction sets in this binary, lowest first.
std::vector<Isa> built_isas();

const char* name(Isa isa);

}  // namespace gradfast::cpu

// The build defines GRADFAST_X86_ISAS where the compiler takes the x86 flags; elsewhere the baseline is all
// there is.
#if defined(GRADFAST_X86_ISAS)
#define GRADFAST_SIMD_KERNEL(ret, kernel, ...) \
    namespace baseline {                       \
    ret kernel(__VA_ARGS__);                   \
    }                                          \
    namespace avx2 {                           \
    ret kernel(__VA_ARGS__);                   \
    }                                          \
    namespace avx512 {                         \
    ret kernel(__VA_ARGS__);                   \
    }                                          \
    namespace avx512bf16 {                     \
    ret kernel(__VA_ARGS__);                   \
    }
#define GRADFAST_SIMD(kernel)                                                                          \
    (::gradfast::cpu::isa() == ::gradfast::cpu::Isa::avx512bf16 ? &::gradfast::cpu::avx512bf16::kernel \
     : ::gradfast::cpu::isa() == ::gradfast::cpu::Isa::avx512   ? &::gradfast::cpu::avx512::kernel     \
     : ::gradfast::cpu::isa() == ::gradfast::cpu::Isa::avx2     ? &::gradfast::cpu::avx2::kernel       \
                                                                : &::gradfast::cpu::baseline::kernel)
#else
#define GRADFAST_SIMD_KERNEL(ret, kernel, ...) \
    namespace baseline {                       \
    ret kernel(__VA_ARGS__);                   \
    }
#define GRADFAST_SIMD(kernel) (&::gradfast::cpu::baseline::kernel)
#endif
