"""The extension module: its sources, macros and flags."""

from __future__ import annotations

import re

import torch
from setuptools import Extension
from torch.utils.cpp_extension import CppExtension

from . import flags
from .command import ROOT, relative


def version() -> str:
    """gradfast's version, from the one place where it is written."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "gradfast" / "version.py").read_text(), re.MULTILINE)
    assert found, "gradfast/version.py has no __version__"
    return found[1]


def extension() -> Extension:
    """gradfast._C for the CPU."""
    cxx = [*flags.COMMON, *flags.openmp()]
    macros = [
        ("GRADFAST_VERSION", f'"{version()}"'),
        ("GRADFAST_CXX_FLAGS", f'"{" ".join(cxx)}"'),
        # Not read by the code: a torch upgraded in place changes the command line, so ninja rebuilds.
        ("GRADFAST_TORCH", f'"{torch.__version__}"'),
    ]
    return CppExtension(
        "gradfast._C",
        sources=[*relative("csrc/*.cpp"), *relative("csrc/cpu/*.cpp")],
        include_dirs=[str(ROOT / "csrc")],
        define_macros=macros,
        extra_compile_args={"cxx": cxx},
        # setuptools looks here to see whether anything is stale; ninja then decides file by file.
        depends=[*relative("csrc/**/*.h"), *relative("csrc/cpu/simd/*.cpp")],
    )
