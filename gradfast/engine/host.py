"""What a call asks of the process that it runs in."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from gradfast import _C

# More than the freed cotangents of a chunk (see `chunks.LARGEST_TENSOR`) and what the forward pass had; less would be
# mapped and cleared again for each chunk, a tenth of the time of a call.
KEPT_BYTES = 256 << 20
# Of a budget: below it, giving memory back costs more time than what is freed in pieces can take of it.
LEAST_BUDGET_TO_RELEASE = 64 << 20
# Of a budget that is in use before freed memory is given back: the next tensors may take as much again before they are seen.
NEAR = 0.9
# The same before a sweep, which needs room between the activations that the forward pass has left.
BEFORE_SWEEP = 0.6

_STATM = Path("/proc/self/statm")


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next chunk, from the first call of the process on.

    False, and nothing done, where it is not glibc or the environment sets glibc's thresholds.
    """
    return _C.keep_freed_memory(KEPT_BYTES)


def release_freed_memory() -> bool:
    """Give the pages of all freed memory back to the system: what is freed in pieces does not serve the next large tensor.

    False, and nothing done, where it is not glibc.
    """
    return _C.release_freed_memory()


class Watch:
    """Gives freed memory back when a call on the CPU, inside ``with``, comes near its budget in bytes, and not before.

    Pages that were given back are cleared and mapped again when the next chunk wants them: a small network loses more than half of its
    time by that, where it is done after each block. What freed memory takes in pieces shows in the resident set.
    """

    # Resident bytes before a call, but for what calls before it left free; and that. One heap, so one for the process.
    _base: int | None = None
    _left = 0

    def __init__(self, budget: int) -> None:
        self._budget, self._passed = budget, 0

    def __enter__(self) -> None:
        """Learns what is in use."""
        now, cls = _resident(), type(self)
        if now is None:
            return
        if cls._base is None or now > cls._base + cls._left + self._budget // 16:
            release_freed_memory()
            cls._base = _resident()
        else:
            cls._base = min(now, cls._base)

    def __exit__(self, *_: object) -> None:
        """What is still there is for the next call."""
        now, cls = _resident(), type(self)
        cls._left = 0 if now is None or cls._base is None else max(0, now - cls._base)

    def check(self, share: float = NEAR) -> None:
        """Gives freed memory back if this call's resident bytes are above a share of the budget, or cannot be told."""
        now, base = _resident(), type(self)._base
        if now is None or base is None or now - base > share * self._budget:
            release_freed_memory()

    def passed(self, size: int) -> None:
        """So many bytes have gone by, and temporaries of several times as many: looks again after each fiftieth of the budget."""
        self._passed += size
        if self._passed > self._budget // 50:
            self._passed = 0
            self.check()


def _resident() -> int | None:
    """Bytes of the process that are in memory; None where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
