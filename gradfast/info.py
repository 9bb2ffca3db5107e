"""What is installed, what was built and what runs: the content of `gradfast info`."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch

from . import _C
from .version import __version__, installed_version

if TYPE_CHECKING:
    from rich.console import RenderableType

_ARCHS = {"avx2": "AVX2", "avx512": "AVX-512", "avx512bf16": "AVX-512 with bf16"}


class Versions(TypedDict):
    """Versions of what is installed.

    `distribution` is gradfast's with the local part that names torch and CUDA, None where no package was installed;
    `torch_cuda` is None for a torch without CUDA.
    """

    gradfast: str
    distribution: str | None
    python: str
    torch: str
    torch_cuda: str | None


class Build(TypedDict):
    """How the extension was built; `cuda_archs` is empty when it was built for the CPU only."""

    torch: str
    compiler: str
    cxx_standard: str
    cxx_flags: str
    isas: list[str]
    cuda: str | None
    cuda_archs: list[str]


class Runtime(TypedDict):
    """What this process uses; `gpus` names the CUDA devices that torch sees."""

    isa: str
    threads: int
    processor: str
    blas: str
    onednn: bool
    gpus: list[str]
    cuda_kernels: str


class Info(TypedDict):
    """All of `gradfast info`."""

    versions: Versions
    build: Build
    runtime: Runtime


def collect() -> Info:
    """Versions, build and run-time facts, as plain values that `json.dumps` takes."""
    built = _C.build_info()
    devices = range(torch.cuda.device_count())
    gpus = [torch.cuda.get_device_name(i) for i in devices]
    capabilities = [torch.cuda.get_device_capability(i) for i in devices]
    return {
        "versions": {
            "gradfast": __version__,
            "distribution": _distribution(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
        },
        "build": {
            "torch": built["torch"],
            "compiler": built["compiler"],
            "cxx_standard": built["cxx_standard"],
            "cxx_flags": built["cxx_flags"],
            "isas": built["isas"],
            "cuda": built["cuda"] or None,
            "cuda_archs": built["cuda_archs"],
        },
        "runtime": {
            "isa": _C.cpu_isa(),
            "threads": torch.get_num_threads(),
            "processor": _processor(),
            "blas": _blas(),
            "onednn": torch.backends.mkldnn.is_available(),
            "gpus": gpus,
            "cuda_kernels": _cuda_kernels(built["cuda_archs"], capabilities),
        },
    }


def render(info: Info) -> RenderableType:
    """A rich table of `info`, for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, rows in _sections(info).items():
        table.add_row(f"[cyan]{title}[/cyan]", "")
        for label, value in rows.items():
            table.add_row(f"  {label}", value)
        table.add_section()
    return table


def _sections(info: Info) -> dict[str, dict[str, str]]:
    versions, build, runtime = info["versions"], info["build"], info["runtime"]
    cap = os.environ.get("GRADFAST_CPU_ISA")
    return {
        "installed": {
            "gradfast": versions["distribution"] or versions["gradfast"],
            "python": f"{versions['python']} ({sys.platform}, {platform.machine()})",
            "torch": f"{versions['torch']} ({_cuda_of_torch(versions['torch_cuda'])})",
        },
        "built": {
            "for torch": build["torch"],
            "compiler": f"{build['compiler']}, {build['cxx_standard']}",
            "flags": build["cxx_flags"],
            "CPU": ", ".join(_label(isa) for isa in build["isas"]),
            "CUDA": f"{' '.join(build['cuda_archs'])} (CUDA {build['cuda']})"
            if build["cuda"]
            else "CPU only",
        },
        "runs": {
            "processor": runtime["processor"],
            "instruction set": _label(runtime["isa"]) + (f" (GRADFAST_CPU_ISA={cap})" if cap else ""),
            "threads": str(runtime["threads"]),
            "BLAS": runtime["blas"] + (" and oneDNN" if runtime["onednn"] else ""),
            "GPU": ", ".join(runtime["gpus"]) or "none that torch sees",
            "CUDA kernels": runtime["cuda_kernels"],
        },
    }


def _distribution() -> str | None:
    """The installed package's version, if it is this version of gradfast."""
    found = installed_version("gradfast")
    return found if found is not None and found.split("+")[0] == __version__ else None


def _label(isa: str) -> str:
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return _ARCHS.get(isa, "SSE2" if x86 else platform.machine())


def _cuda_of_torch(cuda: str | None) -> str:
    return f"CUDA {cuda}" if cuda else "no CUDA"


def _cuda_kernels(archs: list[str], capabilities: list[tuple[int, int]]) -> str:
    """Whether they run, and what is known of them: so far no GPU has run them (docs/cuda.md)."""
    if not archs:
        return "not built"
    if not capabilities:
        return "built, idle: no GPU here. Compiled, emulated and sanitized; never yet run on a GPU"
    oldest = min(int(re.sub(r"\D", "", arch)) for arch in archs)
    too_old = [f"sm_{major}{minor}" for major, minor in capabilities if 10 * major + minor < oldest]
    if too_old:
        return f"none for {', '.join(too_old)}: built for {' '.join(archs)}"
    return "in use for CUDA tensors. Emulated and sanitized, never yet proven on a GPU: bench/gpu.sh does"


def _blas() -> str:
    """The BLAS of torch, as its build settings name it: "mkl", "open", "accelerate"."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    names = {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate", "nvpl": "NVPL"}
    return names.get(found[1], found[1]) if found else "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
