#include "dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace gradfast::cpu {
namespace {

Isa supported() {
#if defined(GRADFAST_X86_ISAS)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return Isa::avx2;
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
#else
    return Isa::baseline;
#endif
}

Isa choose() {
    const Isa best = supported();
    const char* cap = std::getenv("GRADFAST_CPU_ISA");
    if (cap == nullptr) return best;
    for (const Isa isa : built_isas()) {
        if (std::string_view(cap) == name(isa)) return std::min(isa, best);
    }
    return best;
}

}  // namespace

std::vector<Isa> built_isas() {
#if defined(GRADFAST_X86_ISAS)
    return {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512bf16};
#else
    return {Isa::baseline};
#endif
}

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const char* name(Isa isa) {
    switch (isa) {
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512bf16:
            return "avx512bf16";
        default:
            return "baseline";
    }
}

}  // namespace gradfast::cpu
