"""Compiler flags: those of every file, and those of each instruction set."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from .preflight import accepts, release

# -fno-math-errno and -fno-trapping-math let loops vectorise and change no result.
COMMON = ("-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")
SIMD = ("-fopenmp-simd", "-ffp-contract=fast")


@dataclass(frozen=True)
class Isa:
    """One instruction set that csrc/cpu/simd is compiled for; `name` is also its C++ namespace."""

    name: str
    flags: tuple[str, ...]


# Every processor with AVX2 also has F16C. CMakeLists.txt holds the same table.
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
BASELINE = Isa("baseline", ())
X86 = (Isa("avx2", _AVX2), Isa("avx512", _AVX512), Isa("avx512bf16", (*_AVX512, "-mavx512bf16")))


def isas(compiler: list[str]) -> tuple[Isa, ...]:
    """The instruction sets to build, lowest first: all of x86, or the baseline alone."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    # The run-time check must know the highest one too.
    probe = 'int main() { return __builtin_cpu_supports("avx512bf16"); }'
    if x86 and accepts(compiler, list(X86[-1].flags), probe):
        return (BASELINE, *X86)
    return (BASELINE,)


def standard(torch_version: str) -> str:
    """The C++ standard that the headers of this torch are written in."""
    return "-std=c++20" if release(torch_version) >= (2, 12) else "-std=c++17"


def openmp() -> list[str]:
    """Flags that turn on the threads of at::parallel_for.

    They go to the compiler only: the linker must not name an OpenMP runtime, so that the one that torch itself
    loads is used and there is never a second thread pool.
    """
    return [] if sys.platform == "darwin" else ["-fopenmp"]
