"""Outliers made of in-distribution images, for users who have none to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradfast.corruptions import CORRUPTIONS, LEVELS, corrupt
from gradfast.errors import InputError, describe

__all__ = ["OUTLIER_KINDS", "synthetic_outliers"]


def synthetic_outliers(
    images: Tensor,
    seed: int = 0,
    *,
    kinds: Sequence[str] = ("noise", "snow", "exposure", "jigsaw", "rotation"),
    level: int = 3,
) -> Tensor:
    """One outlier of each image, of one of the `kinds`, as many of each.

    A detector that learned to tell them from the images tells other outliers, too, the better the more of what outliers
    change they change: the pixels (noise, snow), their range (exposure), the layout (jigsaw, rotation). Whether images
    turned by a quarter are outliers is for the data's owner to say.

    Args:
        images: float [n, C, H, W], values in [0, 1], before normalisation.
        seed: of which image becomes what, and of each one's random numbers, which depend on the seed and its position
            alone.
        kinds: names in `OUTLIER_KINDS`: the corruptions of `gradfast.corruptions`; "jigsaw", the sixteen patches in
            random order; "rotation", a quarter turn; "uniform", noise without an image.
        level: of corruptions, 1 to 5.

    Returns:
        float32 [n, C, H, W] in [0, 1], on the images' device.

    Raises:
        InputError: other shapes, values or names.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise InputError(f"images: got {describe(images)}; wanted floats [n, C, H, W] in [0, 1]")
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError("images: got values outside [0, 1]; wanted pixels before normalisation")
    unknown = [kind for kind in kinds if kind not in OUTLIER_KINDS]
    if unknown or not kinds:
        raise InputError(f"kinds: got {list(kinds)}; wanted some of {', '.join(OUTLIER_KINDS)}")
    if level not in LEVELS:
        raise InputError(f"level: got {describe(level)}; wanted {LEVELS[0]} to {LEVELS[-1]}")
    device, images = images.device, images.float().cpu()
    out = torch.empty_like(images)
    turn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)) % len(kinds)
    for i, kind in enumerate(kinds):
        rows = (turn == i).nonzero()[:, 0]
        if len(rows):
            made = _OURS[kind] if kind in _OURS else _corruption(kind, level)
            out[rows] = made(images[rows], rows, seed)
    return out.to(device)


Maker = Callable[[Tensor, Tensor, int], Tensor]


def _corruption(kind: str, level: int) -> Maker:
    return lambda images, index, seed: corrupt(images, kind, level, seed=seed, index=index)


def _jigsaw(images: Tensor, index: Tensor, seed: int) -> Tensor:
    """Four by four patches in another order; rows and columns that four does not divide stay."""
    height, width = images.shape[2] // 4, images.shape[3] // 4
    out = images.clone()
    if not height or not width:
        raise InputError(f"images: got shape {list(images.shape)}; jigsaw wanted at least 4 x 4 pixels")
    for row, generator in enumerate(_generators(index, seed)):
        for to, source in enumerate(torch.randperm(16, generator=generator).tolist()):
            (a, b), (c, d) = divmod(to, 4), divmod(source, 4)
            out[row, :, a * height : (a + 1) * height, b * width : (b + 1) * width] = images[
                row, :, c * height : (c + 1) * height, d * width : (d + 1) * width
            ]
    return out


def _rotation(images: Tensor, index: Tensor, seed: int) -> Tensor:
    if images.shape[2] != images.shape[3]:
        raise InputError(f"images: got shape {list(images.shape)}; rotation wanted squares")
    return images.rot90(1, (2, 3))


def _uniform(images: Tensor, index: Tensor, seed: int) -> Tensor:
    noise = [torch.rand(images.shape[1:], generator=generator) for generator in _generators(index, seed)]
    return torch.stack(noise)


def _generators(index: Tensor, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**63) for i in index.tolist()]


_OURS: dict[str, Maker] = {"jigsaw": _jigsaw, "rotation": _rotation, "uniform": _uniform}
OUTLIER_KINDS = (*CORRUPTIONS, *_OURS)
