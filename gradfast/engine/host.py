"""What a call asks of the process that it runs in."""

from __future__ import annotations

from functools import cache

from gradfast import _C

# More than the freed cotangents of a chunk (see `chunks.LARGEST_TENSOR`) and what the forward pass had; less would be
# mapped and cleared again for each chunk, a tenth of the time of a call.
KEPT_BYTES = 256 << 20
# Of a budget: below it, giving memory back costs more time than what is freed in pieces can take of it.
LEAST_BUDGET_TO_RELEASE = 64 << 20


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
