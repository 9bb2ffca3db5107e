"""The files of MNIST and its successors: ``*-images-idx3-ubyte`` and ``*-labels-idx1-ubyte``, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfast.errors import InputError, describe

from .images import Preprocess
from .imageset import PathType
from .pixels import PixelImages

__all__ = ["IdxImages", "has_idx"]

_IMAGES = "*images*idx3-ubyte*"
_SPLITS = {"train": "train", "test": "t10k"}  # as MNIST names its files; others have "test"


class IdxImages(PixelImages):
    """Images and labels in idx files, e.g. MNIST, Fashion-MNIST (Debian's ``dataset-fashion-mnist``), EMNIST, KMNIST.

    Args:
        path: their folder, or one file of images, whose labels lie beside it.
        preprocess: as for all image sets.
        limit: as for all image sets.
        split: "train" or "test" (``t10k-...``), where ``path`` is a folder.

    Raises:
        InputError: no such files, several that fit, or files that are damaged or do not belong together.
    """

    def __init__(
        self, path: PathType, preprocess: Preprocess, limit: int | None = None, split: str = "test"
    ) -> None:
        images = _find(Path(path), split) if Path(path).is_dir() else Path(path)
        pixels = _read(images, 3)
        beside = images.name.replace("images", "labels").replace("idx3", "idx1")
        stem = beside.removesuffix(".gz")
        labels = next((p for n in (beside, stem, stem + ".gz") if (p := images.with_name(n)).is_file()), None)
        targets = None if labels is None or labels == images else _read(labels, 1).astype(np.int64)
        if targets is not None and len(targets) != len(pixels):
            raise InputError(
                f"source: {images} holds {len(pixels)} images, {labels} {len(targets)} labels; wanted as many"
            )
        super().__init__(pixels, targets, preprocess, limit, name=str(images))


def has_idx(folder: Path) -> bool:
    """Whether a folder holds idx files of images."""
    return next(folder.glob(_IMAGES), None) is not None


def _find(folder: Path, split: str) -> Path:
    if split not in _SPLITS:
        raise InputError(f"split: got {describe(split)}; idx files come as 'train' and 'test'")
    words = {split, _SPLITS[split]}
    found = [path for path in sorted(folder.glob(_IMAGES)) if words & set(path.name.split("-"))]
    by_stem = {path.name.removesuffix(".gz"): path for path in found}  # the same file, packed and unpacked
    if len(by_stem) != 1:
        there = ", ".join(path.name for path in sorted(folder.glob(_IMAGES)))
        raise InputError(
            f"source: {folder} holds {there}, {len(by_stem)} of them for split {split!r}; wanted one, or give the file"
        )
    return next(iter(by_stem.values()))


def _read(path: Path, dimensions: int) -> npt.NDArray[Any]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"source: {path} cannot be read: {error}") from error
    head = 4 + 4 * dimensions
    # Two zeros, 8 for unsigned bytes, the number of dimensions; then their sizes, big-endian.
    if len(data) < head or data[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(
            f"source: {path} is no idx file of unsigned bytes in {dimensions} dimensions; it begins with {data[:4].hex()}"
        )
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    if len(data) - head != math.prod(shape):
        raise InputError(
            f"source: {path} has {len(data) - head:,} bytes for {list(shape)}; it is truncated or damaged"
        )
    try:
        return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
    except ValueError as error:  # no bytes, and sizes whose product without the zero NumPy cannot hold
        raise InputError(f"source: {path} is damaged, its sizes are {list(shape)}") from error
