"""The same JPEG compression for every set, so that no detector tells them apart by the codec."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradfast.errors import InputError, describe

from .images import through_jpeg

__all__ = ["jpeg"]

Images = TypeVar("Images", npt.NDArray[Any], Tensor)


def jpeg(images: Images, quality: int) -> Images:
    """Passes images through JPEG (4:2:0), each by itself, as ``Preprocess(jpeg_quality=...)`` does.

    Args:
        images: a tensor [n, 1 or 3, H, W], or a NumPy array [n, H, W] or [n, H, W, 1 or 3]; uint8, or floats in [0, 1].
        quality: 1 to 100, libjpeg's scale.

    Returns:
        As ``images``: the same type, dtype, layout and device.

    Raises:
        InputError: another shape, dtype, range or quality.
    """
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"quality: got {describe(quality)}; wanted an integer from 1 to 100")
    if isinstance(images, Tensor):
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise InputError(f"images: got {describe(images)}; wanted [n, 1 or 3, H, W]")
        array = jpeg(images.detach().cpu().movedim(1, 3).numpy(), quality)
        return torch.from_numpy(array).movedim(3, 1).to(images.device, images.dtype).contiguous()
    if not isinstance(images, np.ndarray):
        raise InputError(f"images: got {describe(images)}; wanted a tensor or a NumPy array")
    shape = f"{images.dtype} of shape {list(images.shape)}"
    if (
        images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] not in (1, 3))
        or 0 in images.shape[1:]
    ):
        raise InputError(f"images: got {shape}; wanted [n, H, W] or [n, H, W, 1 or 3]")
    if images.dtype == np.uint8:
        out = np.empty_like(images)
        for i, image in enumerate(images):
            out[i] = through_jpeg(image, quality).reshape(image.shape)
        return out
    if images.dtype.kind != "f":
        raise InputError(f"images: got {shape}; wanted uint8, or floats in [0, 1]")
    if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN too
        raise InputError(f"images: got values from {images.min():.3g} to {images.max():.3g}; wanted [0, 1]")
    pixels = np.rint(images * 255).astype(np.uint8)
    floats: npt.NDArray[Any] = (jpeg(pixels, quality) / 255).astype(images.dtype)
    return floats
