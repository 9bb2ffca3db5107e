"""The corruptions by name, with the parameter of each level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradfast.errors import InputError, describe

from . import optics, weather
from .draws import Draws

__all__ = ["CORRUPTIONS", "LEVELS", "Corruption", "corrupt"]

LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One way to make an image worse.

    Attributes:
        name: its key in `CORRUPTIONS`.
        parameter: what the levels vary, with its unit.
        levels: the parameter at level 1 to 5, growing.
        function: images [n, C, H, W], the parameter and each sample's random numbers to images, not yet clipped.
        source: where the model, or its levels, come from.
    """

    name: str
    parameter: str
    levels: tuple[float, float, float, float, float]
    function: Callable[[Tensor, float, Draws], Tensor]
    source: str


_ALL = (
    Corruption(
        "noise",
        "standard deviation, of the range [0, 1]",
        (0.04, 0.06, 0.08, 0.09, 0.10),
        optics.noise,
        "CIFAR-10-C's gaussian_noise",
    ),
    Corruption(
        "lens_blur",
        "radius of the disc, pixels at side 32",
        (0.8, 1.1, 1.4, 1.8, 2.2),
        optics.lens_blur,
        "CIFAR-10-C's defocus_blur, as an antialiased disc",
    ),
    Corruption(
        "gaussian_blur",
        "standard deviation, pixels at side 32",
        (0.4, 0.6, 0.7, 0.8, 1.0),
        optics.gaussian,
        "CIFAR-10-C's gaussian_blur",
    ),
    Corruption(
        "dirty_lens",
        "opacity of the dirt",
        (0.2, 0.35, 0.5, 0.65, 0.8),
        optics.dirty_lens,
        "after CURE-TSR's dirty lens; levels ours",
    ),
    Corruption(
        "exposure",
        "stops over",
        (0.5, 1.0, 1.5, 2.0, 2.5),
        optics.exposure,
        "after CURE-TSR's exposure; levels ours",
    ),
    Corruption(
        "snow",
        "share of pixels with a flake",
        (0.03, 0.06, 0.10, 0.15, 0.20),
        weather.snow,
        "after CIFAR-10-C's snow (thresholded noise, motion blur, paler scene); levels ours",
    ),
    Corruption(
        "haze",
        "optical depth at the vanishing point",
        (0.3, 0.6, 1.0, 1.5, 2.2),
        weather.haze,
        "Koschmieder's law with a radial depth, after CURE-TSR's haze; levels ours",
    ),
    Corruption(
        "decolor",
        "share of the colour lost",
        (0.2, 0.4, 0.6, 0.8, 1.0),
        optics.decolor,
        "after CURE-TSR's decolorization; levels ours",
    ),
)

CORRUPTIONS: dict[str, Corruption] = {corruption.name: corruption for corruption in _ALL}


def corrupt(images: Tensor, name: str, level: int, *, seed: int = 0, index: Tensor | None = None) -> Tensor:
    """Corrupts images as D. Temel et al. (CURE-TSR, 2017) and D. Hendrycks and T. Dietterich (ICLR 2019) do.

    What is random in sample i depends on ``(seed, index[i])`` alone, not on the batch that it is in; and is the same at
    every level, so that a level adds to the one below.

    Args:
        images: float [n, C, H, W] in [0, 1], on the CPU; C is 1 or 3 (3 for "decolor").
        name: one of `CORRUPTIONS`.
        level: 1 (slight) to 5.
        seed: at least 0.
        index: int64 [n], each sample's number in its set, at least 0; None: 0 to n - 1.

    Returns:
        float32 [n, C, H, W] in [0, 1], in steps of 1/255, as a file of 8 bits would hold them.

    Raises:
        InputError: a value outside these ranges, or no kornia where it is needed.
    """
    if name not in CORRUPTIONS:
        raise InputError(f"name: got {describe(name)}; wanted one of {', '.join(CORRUPTIONS)}")
    if isinstance(level, bool) or level not in LEVELS:
        raise InputError(f"level: got {describe(level)}; wanted 1 to 5")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"seed: got {describe(seed)}; wanted an integer from 0 to 2**64 - 1")
    _check_images(images, name)
    index = torch.arange(len(images)) if index is None else _checked_index(index, len(images))
    if not len(images):
        return images.float()
    corruption = CORRUPTIONS[name]
    out = corruption.function(images.float(), corruption.levels[level - 1], Draws(seed, index))
    return (out.clamp(0, 1) * 255).round() / 255


def _check_images(images: Tensor, name: str) -> None:
    channels = (3,) if name == "decolor" else (1, 3)
    wanted = f"a float tensor [n, {' or '.join(map(str, channels))}, H, W] in [0, 1] on the CPU"
    if (
        not isinstance(images, Tensor)
        or not images.is_floating_point()
        or images.dim() != 4
        or images.shape[1] not in channels
        or images.device.type != "cpu"
        or 0 in images.shape[2:]
    ):
        raise InputError(f"images: got {describe(images)}; wanted {wanted}")
    if images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise InputError(f"images: got values from {low:.3g} to {high:.3g}; wanted {wanted}")


def _checked_index(index: Tensor, n: int) -> Tensor:
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (n,):
        raise InputError(f"index: got {describe(index)}; wanted an int64 tensor of shape [{n}]")
    if n and int(index.min()) < 0:
        raise InputError(f"index: got {int(index.min())}; wanted at least 0")
    return index
