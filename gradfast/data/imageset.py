"""What all sets of images on disk have in common."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gradfast.errors import InputError, describe

from .images import ImageError, Preprocess, conversions

__all__ = ["ImageSet", "PathType"]

PathType = str | os.PathLike[str]


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images with labels; item i is (float32 [C, H, W], label), the label -1 where it is unknown.

    Attributes:
        classes: names of the labels, or None.
        preprocess: the steps from a decoded image to the tensor.
        on_error: "raise", or "flag": an image that cannot be read is one of NaN, with the label -1, which an extraction flags.
    """

    classes: tuple[str, ...] | None = None
    on_error: str = "raise"

    def __init__(self, preprocess: Preprocess, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"limit: got {describe(limit)}; wanted at least 1, or None for all")
        self.preprocess = preprocess
        self._limit = limit

    @abstractmethod
    def _count(self) -> int:
        """Images in the whole set, without the limit."""

    @abstractmethod
    def _read(self, i: int) -> tuple[Image.Image | npt.NDArray[Any], int]:
        """Image i, decoded, and its label."""

    @abstractmethod
    def where(self, i: int) -> str:
        """Where image i is stored, for messages."""

    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """JSON-able facts that differ between data sets and are cheap to get, without absolute paths."""

    def fingerprint(self) -> str:
        """Hex digest of what identifies the images and their order without reading all of them."""
        facts = json.dumps([type(self).__name__, len(self), self._identity()], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def __len__(self) -> int:
        n = self._count()
        return n if self._limit is None else min(n, self._limit)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        try:
            return self._convert(i, self.preprocess)
        except ImageError:
            if self.on_error == "raise":
                raise
        return torch.full(self._shape, torch.nan), -1

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """[C, H, W] of the images that can be read, by the first of them."""
        size = self.preprocess.settings()["size"]
        if size is not None:
            return (self.preprocess.channels, *size)
        for i in range(len(self)):
            with suppress(ImageError):
                return tuple(self._convert(i, self.preprocess)[0].shape)
        raise InputError(f"source: none of {len(self)} images can be read; the first is {self.where(0)}")

    def conversions(self) -> str:
        """What the preprocessing changes in the channels and the size of the first image, in words; "" for nothing."""
        if not len(self):
            return ""
        try:
            return conversions(self._read(0)[0], self.preprocess)
        except InputError:  # told, with the place, when the image is asked for
            return ""

    def pixels(self, i: int) -> tuple[Tensor, int]:
        """Image i before it is scaled and normalised, uint8 [C, H, W], and its label."""
        return self._convert(i, self.preprocess.pixels)

    def _convert(self, i: int, steps: Callable[[Any], Tensor]) -> tuple[Tensor, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        image, label = self._read(i)
        try:
            return steps(image), label
        except (InputError, OSError, ValueError) as error:
            raise ImageError(f"{self.where(i)}: {error}") from error
