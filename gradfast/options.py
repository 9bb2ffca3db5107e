"""The options that every entry point shares: the memory budget and the compute dtype."""

from __future__ import annotations

import re

import torch

from gradfast.errors import InputError, describe

__all__ = ["COMPUTE_DTYPES", "parse_dtype", "parse_memory_budget"]

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?|)b?\s*", re.IGNORECASE)


def parse_memory_budget(value: int | str | None) -> int | None:
    """Bytes, from an int of bytes or a string such as ``"2GB"`` (10^9 each) or ``"512 MiB"`` (2^20 each).

    Raises:
        InputError: not such a string, or not above zero.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise InputError(
            f'memory_budget: got {describe(value)}; wanted bytes above 0, or text like "2GB" or "512 MiB"'
        )
    return size


def parse_dtype(
    value: torch.dtype | None, allowed: tuple[torch.dtype, ...] = COMPUTE_DTYPES
) -> torch.dtype | None:
    """The compute dtype as it came, checked.

    Raises:
        InputError: not None nor one of ``allowed``.
    """
    if value is not None and value not in allowed:
        names = ", ".join(str(dtype) for dtype in allowed)
        raise InputError(f"dtype: got {describe(value)}; wanted None or one of {names}")
    return value
