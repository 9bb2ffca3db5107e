"""Filters over kornia's, each sample by itself, and a unit of length that fits the image."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from gradfast.errors import InputError

__all__ = ["blobs", "filter_with", "gaussian_blur", "pixels", "streak"]

_SIDE = 32  # the images that the levels' lengths are given for


def pixels(x: Tensor, length: float) -> float:
    """A length in pixels of a 32-pixel image, in pixels of ``x`` [n, C, H, W] by its shorter side."""
    return length * min(x.shape[-2:]) / _SIDE


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian of standard deviation sigma pixels, cut off at four of them; edges replicated."""
    side = 2 * round(4 * sigma) + 1
    return _filters().gaussian_blur2d(x, (side, side), (sigma, sigma), border_type="replicate")  # type: ignore[no-any-return]


def filter_with(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel with one kernel [k, k]; edges replicated."""
    return _filters().filter2d(x, kernel[None], border_type="replicate")  # type: ignore[no-any-return]


def streak(x: Tensor, length: float, degrees: Tensor) -> Tensor:
    """Motion blur over a length in pixels, at each sample's angle, float32 [n], against the horizontal."""
    side = max(3, 2 * round(length / 2) + 1)
    direction = torch.zeros_like(degrees)
    return _filters().motion_blur(x, side, degrees, direction, border_type="constant")  # type: ignore[no-any-return]


def blobs(drawn: Tensor, size: Sequence[int]) -> Tensor:
    """Soft round spots: [n, 1, H, W] in [0, 1] from uniform numbers [n, spots, 3] for row, column and radius."""
    height, width = size
    row, column, radius = (drawn[:, :, i, None, None] for i in range(3))
    rows = (torch.arange(height) + 0.5).view(-1, 1) / height
    columns = (torch.arange(width) + 0.5) / width
    spread = 0.06 + 0.09 * radius  # standard deviation, in image sides
    near = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
    return (1 - (1 - near).prod(1, keepdim=True)).clamp(0, 1)


def _filters() -> ModuleType:
    try:
        from kornia import filters
    except ImportError as error:
        raise InputError(
            f"corruption: blurs and snow need kornia, which cannot be imported ({error}): pip install kornia"
        ) from error
    return filters
