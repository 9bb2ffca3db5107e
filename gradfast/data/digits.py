"""Handwritten digits, and what is no such digit: images that come with scikit-learn, for demonstrations without a download.

The digits (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998) are 8x8 counts of ink from 0 to 16.
All images here are float32 [n, 1, 8, 8] in sixteenths from 0 to 1, so that no set is told apart by its quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import sklearn.datasets
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gradfast.errors import InputError, describe

__all__ = ["CORRUPTIONS", "DigitsSplit", "corrupt", "load_digits_split", "photo_textures"]

_SIDE = 8
_LEVELS = 16
_PATCH_SIDES = (16, 24, 32, 48, 64)  # of photo patches, in pixels


@dataclass(frozen=True)
class DigitsSplit:
    """Digits in three sets, each images [n, 1, 8, 8] and labels int64 [n].

    Attributes:
        train: of the known classes, which are renumbered from 0.
        test: of the same classes, none of the images in train.
        held_out: of the classes that are in neither, by their digit.
        digits: the digit of each known class.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    digits: tuple[int, ...]


def load_digits_split(
    held_out: Collection[int] = (8, 9), test_fraction: float = 0.5, seed: int = 0
) -> DigitsSplit:
    """Splits scikit-learn's 1,797 digits.

    Args:
        held_out: digits to leave out of train and test; at most 8 of them, so that two classes remain.
        test_fraction: of each known class, in (0, 1).
        seed: of the shuffle.

    Raises:
        InputError: digits or a fraction out of range.
    """
    digits = tuple(d for d in range(10) if d not in held_out)
    if not set(held_out) <= set(range(10)) or len(digits) < 2:
        raise InputError(f"held_out: got {describe(held_out)}; wanted at most eight digits from 0 to 9")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction: got {describe(test_fraction)}; wanted a number between 0 and 1")
    stored = sklearn.datasets.load_digits()
    x = torch.from_numpy(stored.images).float().unsqueeze(1) / _LEVELS
    y = torch.from_numpy(stored.target).long()
    order = torch.randperm(len(y), generator=_generator(seed))
    train, test = [], []
    for digit in digits:
        rows = order[y[order] == digit]
        n = round(len(rows) * test_fraction)
        test.append(rows[:n])
        train.append(rows[n:])
    number = torch.full((10,), -1)
    number[list(digits)] = torch.arange(len(digits))

    def known(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        chosen = order[torch.isin(order, torch.cat(rows))]  # classes mixed again
        return x[chosen], number[y[chosen]]

    others = order[torch.isin(y[order], torch.tensor(list(held_out), dtype=torch.long))]
    return DigitsSplit(known(train), known(test), (x[others], y[others]), digits)


def photo_textures(n: int, seed: int = 0) -> Tensor:
    """Patches of scikit-learn's two sample photographs, grey, averaged to 8x8 and stretched to the whole range.

    Args:
        n: how many.
        seed: of their places and sizes (16 to 64 pixels).

    Returns:
        float32 [n, 1, 8, 8] in sixteenths.
    """
    photos = sklearn.datasets.load_sample_images().images
    grey = [torch.from_numpy(np.asarray(photo, dtype=np.float32).mean(2) / 255) for photo in photos]
    generator = _generator(seed)
    patches = torch.empty(n, 1, _SIDE, _SIDE)
    for i in range(n):
        photo = grey[_draw(len(grey), generator)]
        side = _PATCH_SIDES[_draw(len(_PATCH_SIDES), generator)]
        top, left = (_draw(size - side + 1, generator) for size in photo.shape)
        patch = photo[None, None, top : top + side, left : left + side]
        patches[i] = F.adaptive_avg_pool2d(patch, _SIDE)[0]
    low, high = patches.amin((1, 2, 3), keepdim=True), patches.amax((1, 2, 3), keepdim=True)
    return _quantise((patches - low) / (high - low).clamp_min(1e-6))


def corrupt(x: Tensor, kind: str, severity: int = 3, seed: int = 0) -> Tensor:
    """Corrupts digits.

    Args:
        x: float32 [n, 1, 8, 8] in [0, 1].
        kind: one of `CORRUPTIONS`.
        severity: 1 (slight) to 5.
        seed: of the noise and the places.

    Returns:
        As x, in sixteenths.

    Raises:
        InputError: an unknown kind, or a severity out of range.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"kind: got {describe(kind)}; wanted one of {', '.join(CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise InputError(f"severity: got {describe(severity)}; wanted 1 to 5")
    return _quantise(CORRUPTIONS[kind](x, severity, _generator(seed)))


def _noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    return x + 0.1 * severity * torch.randn(x.shape, generator=generator)


def _speckle(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Salt and pepper: pixels set to 0 or 1."""
    draw = torch.rand(x.shape, generator=generator)
    hit = 0.05 * severity
    return torch.where(draw < hit, (draw < hit / 2).to(x), x)


def _blur(x: Tensor, severity: int, _: Generator) -> Tensor:
    """Gaussian, with a standard deviation of 0.4 to 1.2 pixels."""
    offsets = torch.arange(-3.0, 4.0)
    weights = torch.exp(-0.5 * (offsets / (0.2 + 0.2 * severity)) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), kernel[None, None])


def _contrast(x: Tensor, severity: int, _: Generator) -> Tensor:
    """Shrunk towards each image's mean, to 83% down to 15% of the contrast."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 - 0.17 * severity)


def _occlusion(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """An empty square, of 2 to 6 pixels."""
    side = severity + 1
    top, left = torch.randint(0, _SIDE - side + 1, (2, len(x), 1, 1, 1), generator=generator)
    place = torch.arange(_SIDE)
    rows = (place.view(-1, 1) >= top) & (place.view(-1, 1) < top + side)
    columns = (place >= left) & (place < left + side)
    return x.masked_fill(rows & columns, 0)


CORRUPTIONS: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    "noise": _noise,
    "speckle": _speckle,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
}


def _quantise(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * _LEVELS).round() / _LEVELS


def _generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def _draw(n: int, generator: Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
