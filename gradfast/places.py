"""Folders and files by path or by URL, the latter through fsspec, so that object stores can be read and written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from gradfast.errors import InputError

__all__ = ["as_path", "is_remote"]


def as_path(place: str | os.PathLike[str]) -> Path:
    """A path; of a URL (``s3://bucket/key``, ``gs://``, ``file:///``, ...), an object that behaves like one.

    Raises:
        InputError: a URL, and universal_pathlib or the file system's own package is not installed.
    """
    if isinstance(place, str) and "://" in place:
        try:
            from upath import UPath

            path = UPath(place)
            path.fs  # noqa: B018  (the file system's package is imported here)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{place}: cannot be opened ({error}); wanted a path, or a URL whose fsspec file system is installed: "
                "pip install '.[remote]' in gradfast's checkout and, for example, s3fs or gcsfs"
            ) from error
        return cast(Path, path)
    return place if is_remote(place) else Path(place)  # type: ignore[return-value]


def is_remote(path: object) -> bool:
    """Whether `as_path` made it from a URL."""
    return not isinstance(path, (str, Path)) and hasattr(path, "fs")
