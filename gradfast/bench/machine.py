"""What a benchmark ran on, and the most that this machine does: matrix products and memory traffic, measured by torch."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial

import torch

from gradfast import info
from gradfast.version import installed_version

__all__ = ["best_seconds", "describe", "limits"]

_LIBRARIES = (
    "gradfast",
    "torch",
    "torchvision",
    "timm",
    "backpack-for-pytorch",
    "opacus",
    "torchjd",
    "opt_einsum",
)


def describe() -> dict[str, object]:
    """Processor, threads, load and versions, as plain values."""
    runtime = info.collect()["runtime"]
    versions = {name: found for name in _LIBRARIES if (found := installed_version(name)) is not None}
    return {
        "processor": runtime["processor"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": runtime["isa"],
        "blas": runtime["blas"],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def limits(seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of matrix products in float32 and bfloat16 and GB/s of reading memory, the best of what fits into ``seconds`` each."""
    found = {}
    for name, dtype in (("gemm_float32", torch.float32), ("gemm_bfloat16", torch.bfloat16)):
        n = 1536
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        found[name] = 2 * n**3 / best_seconds(partial(torch.mm, a, b), seconds) / 1e9
    stream = torch.ones(1 << 26)  # 256 MB, past every cache
    found["read"] = stream.numel() * 4 / best_seconds(stream.sum, seconds) / 1e9
    return found


def best_seconds(call: Callable[[], object], seconds: float) -> float:
    """The fastest of the calls that fit into some seconds, at least three after one to warm up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
