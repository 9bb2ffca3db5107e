"""What several commands share: how a model is named, lists of numbers, pairs, and the command line itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import Enum

from gradfast.errors import InputError

__all__ = ["IMAGES", "MODELS", "Channels", "command_line", "integers", "note", "numbers", "pairs"]

# What help says of a set of images.
IMAGES = (
    "An image folder, .parquet (a file or a folder of them), .npz, a folder of *-ubyte files, torchvision:NAME:ROOT,"
    " cifar10c:ROOT:CORRUPTION:LEVEL, curetsr:ROOT:CHALLENGE:LEVEL, or noise:uniform|gaussian:COUNT."
)

# What help says of a model's name.
MODELS = (
    '"module:function" or "file.py:function" that returns the model, "torchvision:NAME", "timm:NAME",'
    " cifar_resnet20 | 32 | 56, or densenet_bc_40_12 | densenet_bc_100_12."
)


class Channels(str, Enum):
    """Of images."""

    grey = "1"
    rgb = "3"


def note(line: str) -> None:
    """Says something on standard error that is no result."""
    print(f"gradfast: {line}", file=sys.stderr)


def command_line() -> str:
    """The command line that does this again."""
    return shlex.join(["gradfast", *sys.argv[1:]])


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
