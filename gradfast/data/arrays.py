"""A set of images, or a part of it, in memory: for attacks, corruptions and training, which want pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradfast.errors import InputError, describe
from gradfast.progress import SampleProgress

from .imageset import ImageSet

__all__ = ["Pixels", "read_pixels"]


@dataclass(frozen=True)
class Pixels:
    """n images in 8 bits.

    Attributes:
        bytes: uint8 [n, C, H, W].
        labels: int64 [n], -1 where unknown.
        index: int64 [n], the number of each in its set.
    """

    bytes: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Pixels:
        return Pixels(self.bytes[rows], self.labels[rows], self.index[rows])

    @property
    def images(self) -> Tensor:
        """float32 [n, C, H, W] in [0, 1], made anew at each call."""
        return self.bytes.float() / 255


def read_pixels(
    images: ImageSet, *, limit: int | None = None, seed: int | None = None, progress: bool = False
) -> Pixels:
    """Reads a set into memory, after its preprocessing but for scaling and normalisation.

    Args:
        images: see `open_images`.
        limit: so many of them; None reads all.
        seed: None takes the first; a seed draws without replacement, kept in the set's order.
        progress: show a bar.

    Raises:
        InputError: a limit below 1, an image that cannot be read, or images of different sizes.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit: got {describe(limit)}; wanted an integer, at least 1, or None for all")
    n = len(images)
    if not n:
        raise InputError(f"images: {type(images).__name__} is empty; wanted at least one image")
    count = n if limit is None else min(n, limit)
    if seed is None:
        index = torch.arange(count)
    else:
        index = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    first, _ = images.pixels(int(index[0]))
    pixels = torch.empty((count, *first.shape), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    with SampleProgress(count, progress, doing="reading") as bar:
        for row, i in enumerate(index.tolist()):
            picture, labels[row] = images.pixels(i)
            if picture.shape != first.shape:
                raise InputError(
                    f"images: {images.where(int(index[0]))} has shape {list(first.shape)}, {images.where(i)} has "
                    f"{list(picture.shape)}; wanted one shape for all; give --size, or Preprocess(size=...)"
                )
            pixels[row] = picture
            bar.advance(1)
    return Pixels(pixels, labels, index)
