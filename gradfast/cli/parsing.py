"""Lists of numbers and pairs as they are written on a command line."""

from __future__ import annotations

from collections.abc import Sequence

from gradfast.errors import InputError

__all__ = ["integers", "numbers", "pairs"]


def integers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Reads "0,3,7" as integers; None stays None."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: got {text!r}, wanted integers such as 0,3,7") from None


def numbers(option: str, text: str | None) -> tuple[float, ...] | float | None:
    """Reads "0.5" as a number, "0.4,0.5,0.6" as one per channel; None stays None."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: got {text!r}, wanted numbers such as 0.5 or 0.4,0.5,0.6") from None
    return values[0] if len(values) == 1 else values


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Reads "NAME=VALUE" texts."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise InputError(f"{option}: got {text!r}, wanted NAME=VALUE")
        found[name] = value
    return found
