"""What can be wrong with a directory of features."""

from __future__ import annotations

from gradfast.errors import GradfastError

__all__ = ["CorruptError", "InUseError", "MismatchError", "StoreError"]


class StoreError(GradfastError):
    """A directory of features cannot be written or read."""


class InUseError(StoreError):
    """Another process is writing to the directory."""


class MismatchError(StoreError):
    """The directory holds features of another model, other data or other settings; the message says which."""


class CorruptError(StoreError):
    """A file of the directory is missing, truncated or altered; the message names it."""
