"""Builds the CUDA sources of csrc/cuda with a host compiler over the emulator, with ninja, incrementally."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CUDA = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "cuda_on_cpu"


class CannotBuildError(Exception):
    """What is missing on this machine, in one line."""


def leave_out(reason: str) -> NoReturn:
    """Skips a test for what this machine lacks; with GRADFAST_CUDA=1, as in ``make cuda-check``, fails it."""
    import pytest

    if os.environ.get("GRADFAST_CUDA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def cuda_headers() -> Path:
    """The folder of cuda_runtime.h with the crt headers beside it: of CUDA_HOME, a toolkit, or nvidia's packages."""
    places = [
        Path(folder) / "nvidia" / name
        for folder in site.getsitepackages()
        for name in ("cu13", "cuda_runtime")
    ]
    if "CUDA_HOME" in os.environ:
        places.insert(0, Path(os.environ["CUDA_HOME"]))
    places.append(Path("/usr/local/cuda"))
    for place in places:
        include = place / "include"
        if (include / "cuda_runtime.h").exists() and (include / "crt" / "host_defines.h").exists():
            return include
    raise CannotBuildError(
        "no CUDA headers: pip install nvidia-cuda-runtime nvidia-cuda-crt, or set CUDA_HOME"
    )


def require_tools() -> None:
    """Ninja, a C++ compiler and x86-64, or a line that says what is missing."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    if os.uname().machine != "x86_64":
        raise CannotBuildError(f"the emulator switches fibers on x86_64 only, this is {os.uname().machine}")
    for tool in ("ninja", compiler()):
        if shutil.which(tool) is None:
            raise CannotBuildError(f"{tool} is not installed")


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@dataclass(frozen=True)
class Sanitizer:
    """How a sanitizer's build differs: what the kernels get, and what the emulator gets."""

    name: str
    kernel_flags: tuple[str, ...] = ()
    emulator_flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()


PLAIN = Sanitizer("plain")
# The emulator's own exchanges must not order the threads of a block, so ThreadSanitizer sees the kernels alone.
THREAD = Sanitizer("thread", ("-fsanitize=thread",), ("-DGRADFAST_EMULATOR_TSAN",), ("-fsanitize=thread",))
ADDRESS = Sanitizer(
    "address",
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DGRADFAST_EMULATOR_ASAN"),
    ("-fsanitize=address", "-DGRADFAST_EMULATOR_ASAN"),
    ("-fsanitize=address,undefined",),
)


@dataclass
class Ninja:
    """A build.ninja under way."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines += [
            "rule compile",
            f"  command = {compiler()} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {compiler()} $in $flags -o $out",
        ]

    def compile(self, source: Path, flags: list[str]) -> None:
        target = f"{source.parent.name}_{source.stem}_{source.suffix[1:]}.o"
        self.lines += [f"build {target}: compile {source}", f"  flags = {' '.join(flags)}"]
        self.objects.append(target)

    def link(self, target: str, flags: list[str]) -> Path:
        self.lines += [f"build {target}: link {' '.join(self.objects)}", f"  flags = {' '.join(flags)}"]
        self.build([target])
        return self.folder / target

    def build(self, targets: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n".join(self.lines) + "\n")
        jobs = os.environ.get("MAX_JOBS", "2")
        run = subprocess.run(
            ["ninja", "-C", str(self.folder), "-j", jobs, *targets],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise RuntimeError(f"the emulated build failed:\n{run.stdout}{run.stderr}")


def common_flags() -> list[str]:
    flags = ["-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    return [*flags, "-isystem", str(cuda_headers()), f"-I{HERE / 'emulator'}"]


def emulator_objects(sanitizer: Sanitizer) -> list[str]:
    """The emulator, compiled once for all programs of a sanitizer."""
    ninja = Ninja(BUILD / f"{sanitizer.name}-emulator")
    for source in sorted((HERE / "emulator").glob("*.cpp")):
        checked = source.name == "checked_copy.cpp"
        extra = sanitizer.kernel_flags if checked else sanitizer.emulator_flags
        ninja.compile(source, [*common_flags(), "-O2", *extra])
    ninja.build(ninja.objects)
    return [str(ninja.folder / name) for name in ninja.objects]


def add_emulated(ninja: Ninja, sanitizer: Sanitizer, optimize: str, kernels: list[Path]) -> None:
    """The emulator and these kernel files, as nvcc's host compiler would see them."""
    common = common_flags()
    ninja.objects += emulator_objects(sanitizer)
    for source in kernels:
        quiet = ["-Wno-unknown-pragmas", "-Wno-attributes"]
        ninja.compile(source, [*common, optimize, *sanitizer.kernel_flags, *quiet, "-x", "c++"])


# The kernel files that each program of drivers/ runs.
DRIVERS = {
    "direct": ["direct.cu"],
    "gram": ["gram.cu"],
    "dot": ["dot.cu"],
    "depthwise": ["depthwise.cu"],
    "channel": ["channel.cu", "sum.cu"],
    "embedding": ["embedding.cu"],
}


def build_driver(
    name: str, sanitizer: Sanitizer, kernels: Path = CUDA / "kernels", variant: str = "clean"
) -> Path:
    """The program drivers/<name>.cpp over the kernels of a folder, which may be a changed copy."""
    require_tools()
    ninja = Ninja(BUILD / f"{sanitizer.name}-{variant}-{name}")
    add_emulated(ninja, sanitizer, "-O1", [kernels / file for file in DRIVERS[name]])
    ninja.compile(
        HERE / "drivers" / f"{name}.cpp",
        ["-std=c++17", "-g1", "-O1", "-Wall", "-Wextra", "-isystem", str(cuda_headers()), f"-I{HERE / 'emulator'}",
         *sanitizer.kernel_flags],
    )  # fmt: skip
    return ninja.link(name, [*sanitizer.link_flags, "-lpthread"])


def build_ops() -> Path:
    """The library of torch.ops.gradfast_emulated."""
    import torch
    from torch.utils.cpp_extension import include_paths

    require_tools()
    ninja = Ninja(BUILD / f"ops-torch{torch.__version__}")
    add_emulated(ninja, PLAIN, "-O2", sorted((CUDA / "kernels").glob("*.cu")))
    standard = "-std=c++20" if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12) else "-std=c++17"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    flags = [standard, abi, "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-DGRADFAST_CUDA_ON_CPU",
             f"-I{HERE}", *includes, "-isystem", str(cuda_headers())]  # fmt: skip
    for source in [*sorted(CUDA.glob("*.cpp")), HERE / "emulated_ops.cpp"]:
        ninja.compile(source, flags)
    library = Path(torch.__file__).parent / "lib"
    return ninja.link(
        "libgradfast_emulated.so",
        ["-shared", f"-L{library}", f"-Wl,-rpath,{library}", "-ltorch", "-ltorch_cpu", "-lc10"],
    )


if __name__ == "__main__":
    try:
        print(build_ops())
    except CannotBuildError as error:
        sys.exit(f"cuda_on_cpu: {error}")
