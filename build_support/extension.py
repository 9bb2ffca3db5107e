"""The extension module: its sources, macros and flags."""

from __future__ import annotations

import re

import torch
from setuptools import Extension
from torch.utils.cpp_extension import CppExtension, CUDAExtension, include_paths

from . import cuda, flags
from .command import ROOT, relative


def version() -> str:
    """The version of gradfast, from the one place where it is written."""
    text = (ROOT / "gradfast" / "version.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found, "gradfast/version.py has no __version__"
    return found[1]


def extension() -> Extension:
    """gradfast._C: for the CPU, and for CUDA where torch and a toolkit allow it."""
    cxx = [*flags.COMMON, *flags.openmp(), flags.standard(torch.__version__)]
    macros = [
        ("GRADFAST_VERSION", f'"{version()}"'),
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
    toolkit = cuda.toolkit()
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
