"""One call for every set of images on disk."""

from __future__ import annotations

import os
from pathlib import Path

from gradfast.errors import InputError

from .folder import ImageFolder
from .images import Preprocess
from .imageset import ImageSet, PathType
from .parquet import ImageParquet
from .pixels import NpzImages
from .vision import TorchvisionImages

__all__ = ["open_images"]


def open_images(
    spec: PathType, preprocess: Preprocess | None = None, *, split: str = "test", limit: int | None = None
) -> ImageSet:
    """Opens a set of images that is on disk.

    Args:
        spec: an image folder; a ``.parquet`` file or a folder of them; a ``.npz`` file; or
            ``"torchvision:NAME:ROOT"``, e.g. ``"torchvision:CIFAR10:/data"``.
        preprocess: default: RGB, as large as stored, pixels in [0, 1].
        split: of ``.npz`` files that hold several, and of torchvision's data sets.
        limit: keep the first so many images; None keeps all.

    Raises:
        InputError: nothing there that can be read in one of these ways.
    """
    preprocess = preprocess or Preprocess()
    text = os.fspath(spec)
    if text.startswith("torchvision:"):
        _, name, root = (*text.split(":", 2), "", "")[:3]
        if not name or not root:
            raise InputError(
                f'source: got {text!r}; wanted "torchvision:NAME:ROOT", e.g. "torchvision:CIFAR10:/data"'
            )
        return TorchvisionImages(name, root, preprocess, limit, split)
    path = Path(text)
    if path.is_dir():
        return (ImageParquet if _has_parquet(path) else ImageFolder)(path, preprocess, limit)
    if not path.exists():
        raise InputError(
            f"source: there is no {path}; wanted an image folder, Parquet, .npz, or torchvision:NAME:ROOT"
        )
    if path.suffix == ".npz":
        return NpzImages(path, preprocess, limit, split)
    if path.suffix in (".parquet", ".pq"):
        return ImageParquet(path, preprocess, limit)
    raise InputError(
        f"source: {path} is a file of unknown kind; wanted .parquet, .npz, or a folder of images"
    )


def _has_parquet(folder: Path) -> bool:
    return next(folder.glob("*.parquet"), None) is not None
