"""What a camera does: sensor noise, focus, blur, dirt on the lens, exposure, lost colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .draws import Draws
from .filters import blobs, filter_with, gaussian_blur, pixels

__all__ = ["decolor", "dirty_lens", "exposure", "gaussian", "lens_blur", "noise"]

_SPECKS = 6
_DIRT = (0.35, 0.30, 0.25)  # of a speck, RGB
_OVERSAMPLING = 9  # points per pixel and axis, for the share of a pixel that a disc covers
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def noise(x: Tensor, std: float, draws: Draws) -> Tensor:
    """Adds Gaussian noise of a standard deviation on the scale [0, 1]."""
    return x + std * draws.normal(*x.shape[1:])


def gaussian(x: Tensor, sigma: float, _: Draws) -> Tensor:
    """Gaussian blur; sigma in pixels of a 32-pixel image."""
    return gaussian_blur(x, pixels(x, sigma))


def lens_blur(x: Tensor, radius: float, _: Draws) -> Tensor:
    """A point out of focus is a disc; radius in pixels of a 32-pixel image."""
    return filter_with(x, _disc(pixels(x, radius)))


def dirty_lens(x: Tensor, opacity: float, draws: Draws) -> Tensor:
    """Soft brown specks at random places, the same at every opacity."""
    mask = blobs(draws.uniform(_SPECKS, 3), x.shape[-2:])
    dirt = torch.tensor(_DIRT) if x.shape[1] == 3 else torch.full((x.shape[1],), sum(_DIRT) / 3)
    return torch.lerp(x, dirt.view(1, -1, 1, 1).expand_as(x), opacity * mask)


def exposure(x: Tensor, stops: float, _: Draws) -> Tensor:
    """Overexposed by so many stops: linear light times 2**stops, clipped, back to sRGB (IEC 61966-2-1)."""
    linear = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    light = (linear * 2**stops).clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def decolor(x: Tensor, share: float, _: Draws) -> Tensor:
    """Moves each pixel towards its luma by a share of the way."""
    luma = (x * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.lerp(x, luma.expand_as(x), share)


def _disc(radius: float) -> Tensor:
    """[k, k], k odd: the share of each pixel that a disc covers, with sum 1."""
    reach = math.ceil(radius - 0.5)
    points = (torch.arange((2 * reach + 1) * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - reach - 0.5
    inside = (points.view(-1, 1) ** 2 + points**2 <= radius**2).float()
    side = 2 * reach + 1
    kernel = inside.view(side, _OVERSAMPLING, side, _OVERSAMPLING).sum((1, 3))
    return kernel / kernel.sum()
