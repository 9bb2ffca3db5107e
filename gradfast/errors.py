"""Exceptions and warnings of gradfast, and how a value is named in their messages.

Every message names the argument, what came, and what was wanted.
"""

from __future__ import annotations

__all__ = [
    "DropoutWarning",
    "FallbackWarning",
    "GradfastError",
    "HookWarning",
    "InputError",
    "ModelError",
    "describe",
]


class GradfastError(Exception):
    """Base class of every error that gradfast raises on purpose."""


class InputError(GradfastError, ValueError):
    """An argument has a value, shape, dtype or device that cannot be used."""


class ModelError(GradfastError, RuntimeError):
    """The model itself, in the mode it is in, has no per-sample gradients to take."""


class DropoutWarning(UserWarning):
    """A dropout is in train mode, so that the norms are those of one random draw of masks; the message names it."""


class FallbackWarning(UserWarning):
    """Some parameters take the exact but slower per-sample path; the message names them."""


class HookWarning(UserWarning):
    """The model has backward hooks, which are not run: norms are those of the gradients without them."""


def describe(value: object) -> str:
    """Says what ``value`` is in a few words, for an error message."""
    from torch import Tensor  # here, for the command line's help is to be quick

    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        article = "an" if dtype.startswith("int") else "a"
        return f"{article} {dtype} tensor of shape {list(value.shape)} on {value.device}"
    text = repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{text} ({type(value).__name__})"
