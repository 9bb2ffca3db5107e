"""The build_ext command: torch's, plus csrc/cpu/simd compiled once per instruction set."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_platform

import torch
from setuptools import Extension
from setuptools.errors import CompileError, LinkError
from torch.utils.cpp_extension import BuildExtension

from . import flags, preflight

ROOT = Path(__file__).resolve().parent.parent


def relative(pattern: str) -> list[str]:
    """Files of the checkout that match, sorted, relative to its root as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


class BuildExt(BuildExtension):
    """Builds gradfast._C with ninja, incrementally, and reports a failure in one line."""

    build_temp: str | None

    def finalize_options(self) -> None:
        if self.build_temp is None:
            # pip would build an editable install in a fresh temporary folder: nothing would ever be reused.
            self.build_temp = str(ROOT / "build" / f"temp.{get_platform()}-{sys.implementation.cache_tag}")
        super().finalize_options()
        # ninja alone knows what is stale: setuptools would miss a header or a source that went away.
        self.force = True

    def run(self) -> None:
        preflight.require_ninja()
        self.cxx = preflight.require_compiler(flags.standard(torch.__version__))
        try:
            with self._alone():
                super().run()
        except (RuntimeError, CompileError, LinkError) as error:
            # ninja has already shown what the compiler said.
            preflight.fail(f"the C++ build failed: see the first compiler error above ({_first_line(error)})")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for another build in the same folder: two ninjas in one would spoil each other's log."""
        folder = Path(self.build_temp or ".")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def build_extension(self, ext: Extension) -> None:
        isas = flags.isas(self.cxx)
        if len(isas) > 1:
            ext.define_macros = [*ext.define_macros, ("GRADFAST_X86_ISAS", None)]
        for isa in isas:
            ext.extra_objects = [*ext.extra_objects, *self._compile_simd(ext, isa)]
        super().build_extension(ext)

    def _compile_simd(self, ext: Extension, isa: flags.Isa) -> list[str]:
        sources = relative("csrc/cpu/simd/*.cpp")
        if not sources:
            return []
        arguments = ext.extra_compile_args
        cxx = arguments["cxx"] if isinstance(arguments, dict) else arguments
        return list(
            self.compiler.compile(
                sources,
                output_dir=f"{self.build_temp}/{isa.name}",
                macros=[*ext.define_macros, ("GRADFAST_ARCH", isa.name)],
                include_dirs=ext.include_dirs,
                extra_postargs=[*cxx, *flags.SIMD, *isa.flags],
            )
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
