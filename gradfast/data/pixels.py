"""Decoded images in arrays, in memory or in a NumPy file."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfast.errors import InputError

from .images import Preprocess
from .imageset import ImageSet, PathType

__all__ = ["NpzImages", "PixelImages"]


class PixelImages(ImageSet):
    """Images as one uint8 array in memory.

    Args:
        pixels: uint8 [n, H, W], [n, H, W, 1 or 3] or [n, 1 or 3, H, W].
        labels: integers [n] or [n, 1]; None: unknown.
        preprocess: as for all image sets.
        limit: as for all image sets.
        name: what messages call the array.

    Raises:
        InputError: another dtype or shape.
    """

    def __init__(
        self,
        pixels: npt.NDArray[Any],
        labels: npt.NDArray[Any] | None,
        preprocess: Preprocess,
        limit: int | None = None,
        name: str = "pixels",
    ) -> None:
        super().__init__(preprocess, limit)
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
            raise InputError(
                f"source: {name} is {pixels.dtype} of shape {list(pixels.shape)}; "
                "wanted uint8 [n, H, W], [n, H, W, 1 or 3] or [n, 1 or 3, H, W]"
            )
        if labels is not None:
            if labels.ndim == 2 and labels.shape[1] == 1:
                labels = labels[:, 0]
            if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
                raise InputError(
                    f"source: labels of {name} are {labels.dtype} of shape {list(labels.shape)}; wanted integers [{len(pixels)}]"
                )
        self._pixels, self._labels, self._name = pixels, labels, name

    def _count(self) -> int:
        return len(self._pixels)

    def _read(self, i: int) -> tuple[npt.NDArray[Any], int]:
        return self._pixels[i], -1 if self._labels is None else int(self._labels[i])

    def where(self, i: int) -> str:
        """The array's name and the index in it."""
        return f"{self._name}[{i}]"

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._pixels[: len(self)].tobytes())
        if self._labels is not None:
            digest.update(self._labels[: len(self)].tobytes())
        return {"pixels": digest.hexdigest(), "shape": list(self._pixels.shape[1:])}


class NpzImages(PixelImages):
    """Images and labels in a NumPy ``.npz`` file, under one of the usual names.

    Tried in turn, for split "test": ``test_images`` (MedMNIST), ``x_test`` (Keras), ``images``, ``x``, ``X``, ``image``,
    ``data``, ``arr_0``; labels likewise. Pickled arrays are refused.

    Raises:
        InputError: no such file, not ``.npz``, no such array, or one of another dtype or shape.
    """

    def __init__(
        self, path: PathType, preprocess: Preprocess, limit: int | None = None, split: str = "test"
    ) -> None:
        images = (f"{split}_images", f"x_{split}", "images", "x", "X", "image", "data", "arr_0")
        labels = (f"{split}_labels", f"y_{split}", "labels", "y", "Y", "label", "targets", "arr_1")
        try:
            with np.load(path, allow_pickle=False) as stored:
                x_name = next((name for name in images if name in stored), None)
                y_name = next((name for name in labels if name in stored), None)
                if x_name is None:
                    raise InputError(
                        f"source: {path} holds {', '.join(stored)}; wanted one of {', '.join(images)}"
                    )
                pixels, targets = stored[x_name], stored[y_name] if y_name else None
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy's header parser have no common base
            raise InputError(f"source: {path} cannot be read as .npz: {error}") from error
        for name, member in ((x_name, pixels), (y_name, targets)):
            if member is not None and not isinstance(
                member, np.ndarray
            ):  # NumPy hands out other files' bytes
                raise InputError(f"source: {path}: {name} is no NumPy array")
        super().__init__(pixels, targets, preprocess, limit, name=f"{path}:{x_name}")
