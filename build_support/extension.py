"""The extension module: its sources, macros and flags."""

from __future__ import annotations

import torch
from setuptools import Extension
from torch.utils.cpp_extension import CppExtension, CUDAExtension, include_paths

from . import cuda, flags, version
from .command import ROOT, relative


def extension(toolkit: cuda.Toolkit | None) -> Extension:
    """gradfast._C: for the CPU, and for CUDA where there is a toolkit (`cuda.toolkit`)."""
    cxx = [*flags.COMMON, *flags.openmp(), flags.standard(torch.__version__)]
    macros = [
        ("GRADFAST_VERSION", f'"{version.public()}"'),
        ("GRADFAST_CXX_FLAGS", f'"{" ".join(cxx)}"'),
        # Not read by the code: a torch upgraded in place changes the command line, so ninja rebuilds.
        ("GRADFAST_TORCH", f'"{torch.__version__}"'),
    ]
    system = [f"-isystem{path}" for path in include_paths()]  # warnings are for our own code
    common = {
        "include_dirs": [str(ROOT / "csrc")],
        "extra_compile_args": {"cxx": [*cxx, *system], "nvcc": [*cuda.NVCC_FLAGS]},
    }
    # The choice of a CUDA kernel needs no CUDA: every build can tell it.
    plan = "csrc/cuda/plan.cpp"
    sources = [*relative("csrc/*.cpp"), *relative("csrc/cpu/*.cpp"), plan]
    if toolkit is None:
        return CppExtension("gradfast._C", sources=sources, define_macros=macros, **common)
    return CUDAExtension(
        "gradfast._C",
        sources=[
            *sources,
            *(source for source in relative("csrc/cuda/*.cpp") if source != plan),
            *relative("csrc/cuda/kernels/*.cu"),
        ],
        define_macros=[*macros, *toolkit.macros()],
        library_dirs=[str(toolkit.libraries)],
        **common,
    )
