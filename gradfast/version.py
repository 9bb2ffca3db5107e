"""The version, written here only, and those of other libraries."""

from __future__ import annotations

import importlib.metadata

__all__ = ["__version__", "installed_version"]

__version__ = "0.1.0"


def installed_version(library: str) -> str | None:
    """The version of a library that is installed, by the name that pip calls it; None if it is not."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
