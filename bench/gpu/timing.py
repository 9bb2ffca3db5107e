"""Times of asynchronous work, and what the machine itself reaches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: str, budget: float = 0.5) -> float:
    """The median time of one call: by CUDA events on a GPU, by the clock elsewhere. Two calls warm up."""
    for _ in range(2):
        work()
    if device != "cuda":
        return statistics.median(_clock(work) for _ in range(3))
    torch.cuda.synchronize()
    once = max(_events(work, 1), 1e-6)
    calls = max(1, min(50, int(budget / 5 / once)))
    return statistics.median(_events(work, calls) for _ in range(5))


def _clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _events(work: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def peak_memory(work: Callable[[], object], device: str) -> int | None:
    """Bytes that a call allocates at most beyond what is there before; None off the GPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def matrix_rate(dtype: torch.dtype, device: str, tf32: bool = False) -> float:
    """FLOP/s of a large square product, as torch reaches them here."""
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * n**3 / seconds(lambda: a @ b, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copy_bandwidth(device: str) -> float:
    """Bytes/s read and written by a copy."""
    n = (1 << 30) if device == "cuda" else (1 << 22)
    source = torch.zeros(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * n / seconds(lambda: target.copy_(source), device)
