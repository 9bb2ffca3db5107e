"""Peak memory of a call: what it adds to the resident set, in a process of its own.

The child prepares the call (for a contender: builds the task and makes a plain forward pass on one sample, so that libraries are
loaded), gives freed memory back, and then calls once. On Linux the kernel's own high-water mark is reset before the call, and read
after it.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from .contenders import contenders
from .libraries import libraries
from .race import Task, failure

__all__ = ["added_bytes", "peak_bytes"]

# Prepares a call and returns it.
Prepare = Callable[[], Callable[[], object]]


def peak_bytes(
    build: Callable[[], Task], contender: str, *, threads: int | None = None, timeout: float = 120.0
) -> tuple[int | None, str | None]:
    """Bytes that one call of a contender adds at its peak, and the error that stopped it.

    Args:
        build: returns the `Task`; called in the child, so it must pickle: a function of a module, or a partial of one.
        contender: by name.
        threads: torch's, in the child; None: as in this process.
        timeout: seconds; then the child is ended.
    """
    return added_bytes(partial(_prepare, build, contender), threads=threads, timeout=timeout)


def added_bytes(
    prepare: Prepare, *, threads: int | None = None, timeout: float = 120.0
) -> tuple[int | None, str | None]:
    """Bytes that a call adds at its peak, and the error that stopped it; `prepare` runs in the child and gives the call.

    ``prepare`` must pickle; ``threads`` and ``timeout`` as in `peak_bytes`.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would start with this process's memory
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(
        target=_child, args=(theirs, prepare, threads or torch.get_num_threads()), daemon=True
    )
    child.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return None, f"TimeoutError: it took more than {timeout:.0f} s"
        added, error = ours.recv()
        return added, error
    except EOFError:
        child.join()
        return None, f"ChildProcessError: it ended with exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()


def _child(out: Connection, prepare: Prepare, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        out.send((_measure(prepare()), None))
    except Exception as error:  # whatever another library raises
        out.send((None, failure(error)))


def _prepare(build: Callable[[], Task], name: str) -> Callable[[], object]:
    task = build()
    found = next(c for c in contenders() + libraries() if c.name == name)
    with torch.no_grad():
        task.model(task.x[:1])
    return partial(found.prepare(task.model).run, task.x, task.classes)


def _measure(call: Callable[[], object]) -> int:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before = _reset()
    call()
    return max(0, _peak() - before)


def _reset() -> int:
    """The resident set now, in bytes; the high-water mark starts from it where the kernel allows."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
