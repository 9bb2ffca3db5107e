"""From encoded bytes or pixel arrays to the tensor that a model takes, by steps that are written down with the features."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gradfast.errors import InputError, describe

__all__ = ["ImageError", "Preprocess", "conversions", "decode", "jpeg_quality", "through_jpeg"]

PerChannel = float | Sequence[float] | None


class ImageError(InputError):
    """An image that cannot be read; the message names the file, or the file and the row."""


@dataclass(frozen=True)
class Preprocess:
    """Image to tensor: channels, size, JPEG pass, pixels to [0, 1], normalisation; in this order.

    Args:
        size: height and width, or one int for both; other images are resized (bilinear, antialiased, aspect ratio not
            kept). None keeps each image's own.
        channels: 3 (RGB) or 1 (grey).
        mean: subtracted from pixels in [0, 1]; one number or one per channel. None: 0.
        std: what the difference is divided by. None: 1.
        jpeg_quality: 1 to 100: encode as JPEG (4:2:0) at the final size and decode. For a set that was never JPEG,
            compared with one that was: without the pass, a detector tells them apart by the codec. `jpeg_quality`,
            the function, tells a file's own.

    Raises:
        InputError: a value outside these ranges.
    """

    size: int | tuple[int, int] | None = None
    channels: int = 3
    mean: PerChannel = None
    std: PerChannel = None
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"channels: got {describe(self.channels)}; wanted 1 (grey) or 3 (RGB)")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"jpeg_quality: got {describe(self.jpeg_quality)}; wanted 1 to 100, or None")
        size, std = self._height_width(), self._per_channel("std")
        self._per_channel("mean")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise InputError(f"size: got {describe(self.size)}; wanted a positive int or (height, width)")
        if std is not None and min(std) <= 0:
            raise InputError(f"std: got {describe(self.std)}; wanted positive numbers")

    def _height_width(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _per_channel(self, name: str) -> tuple[float, ...] | None:
        value: PerChannel = getattr(self, name)
        if value is None:
            return None
        numbers = (value,) * self.channels if isinstance(value, (int, float)) else tuple(map(float, value))
        if len(numbers) != self.channels or not all(map(math.isfinite, numbers)):
            raise InputError(
                f"{name}: got {describe(value)}; wanted a number, or {self.channels}, one per channel"
            )
        return numbers

    def settings(self) -> dict[str, Any]:
        """The fields, spelled in one way, as JSON takes them."""
        size, mean, std = self._height_width(), self._per_channel("mean"), self._per_channel("std")
        return {
            "size": size and list(size),
            "channels": self.channels,
            "mean": mean and list(mean),
            "std": std and list(std),
            "jpeg_quality": self.jpeg_quality,
        }

    def __call__(self, image: Image.Image | npt.NDArray[Any] | Tensor) -> Tensor:
        """Converts one image.

        Args:
            image: a PIL image, or uint8 pixels [H, W], [H, W, 1 or 3], or [1 or 3, H, W].

        Returns:
            float32 [channels, H, W].
        """
        x = self.pixels(image).float() / 255
        mean, std = self._per_channel("mean"), self._per_channel("std")
        if mean is not None:
            x -= torch.tensor(mean).view(-1, 1, 1)
        if std is not None:
            x /= torch.tensor(std).view(-1, 1, 1)
        return x

    def pixels(self, image: Image.Image | npt.NDArray[Any] | Tensor) -> Tensor:
        """The image before it is scaled and normalised: uint8 [channels, H, W]."""
        picture = image if isinstance(image, Image.Image) else _from_pixels(image)
        picture = _convert(picture, "RGB" if self.channels == 3 else "L")
        size = self._height_width()
        if size is not None and picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        if self.jpeg_quality is not None:
            picture = _encoded(picture, self.jpeg_quality)
        pixels = torch.from_numpy(np.array(picture))
        return pixels.permute(2, 0, 1).contiguous() if self.channels == 3 else pixels.unsqueeze(0)


def decode(encoded: bytes, where: str) -> Image.Image:
    """Decodes an image file's bytes, all of them, so that a truncated file fails here.

    Raises:
        ImageError: not an image, damaged, truncated, or larger than Pillow's limit against decompression bombs; the
            message begins with ``where``.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded))
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageError(f"{where}: refused, it could be a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{where}: not an image that Pillow knows ({len(encoded)} bytes)") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
    ) as error:  # what Pillow's codecs raise on damaged files
        raise ImageError(f"{where}: cannot be decoded: {error}") from error
    return image


# Annex K.1 of the JPEG standard (ITU-T T.81), luminance at quality 50, in zigzag order.
_LUMINANCE = (
    *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
    *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
    *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
    *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
)


def jpeg_quality(encoded: bytes) -> int | None:
    """The quality (1 to 100, libjpeg's scale) at which a JPEG file was encoded.

    None if it is not a JPEG file, or if its luminance table is not the standard's at any quality.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if not tables:
        return None
    # Sorted, for Pillow's versions differ in the order; tables of the same values are the same.
    found = sorted(tables[min(tables)])
    for quality in range(100, 0, -1):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        if sorted(min(max((v * scale + 50) // 100, 1), 255) for v in _LUMINANCE) == found:
            return quality
    return None


def _from_pixels(pixels: npt.NDArray[Any] | Tensor) -> Image.Image:
    array = pixels.numpy(force=True) if isinstance(pixels, Tensor) else np.asarray(pixels)
    if array.dtype == np.uint8 and array.ndim == 3:
        if array.shape[2] not in (1, 3) and array.shape[0] in (1, 3):
            array = array.transpose(1, 2, 0)
        if array.shape[2] == 1:
            array = array[:, :, 0]
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or array.size == 0
    ):
        raise InputError(
            f"image: got {array.dtype} of shape {list(array.shape)}; "
            "wanted uint8 [H, W], [H, W, 1 or 3] or [1 or 3, H, W]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "F":  # Pillow cuts off the decimals: all that lies in [0, 1] would be black
        raise InputError(
            "image: its pixels are floats, whose range is not told; wanted integers of 8 or 16 bits"
        )
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):  # Pillow clips these at 255
        scaled = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    return image.convert(mode)


def through_jpeg(pixels: npt.NDArray[Any], quality: int) -> npt.NDArray[Any]:
    """One image, uint8 [H, W] or [H, W, 1 or 3], encoded as JPEG (4:2:0) and decoded: uint8 [H, W] or [H, W, 3]."""
    return np.array(_encoded(_from_pixels(pixels), quality))


def _encoded(image: Image.Image, quality: int) -> Image.Image:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    return decode(encoded.getvalue(), "image after the JPEG pass")


def conversions(image: Image.Image | npt.NDArray[Any], preprocess: Preprocess) -> str:
    """What the preprocessing changes in an image's channels and size, in words; "" for nothing."""
    picture = image if isinstance(image, Image.Image) else _from_pixels(image)
    said = []
    grey = picture.mode in ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")
    if grey and preprocess.channels == 3:
        said.append("grey to RGB")
    elif not grey and preprocess.channels == 1:
        said.append("colour to grey")
    height, width = preprocess.settings()["size"] or (picture.height, picture.width)
    if (width, height) != picture.size:
        said.append(f"{picture.height}x{picture.width} to {height}x{width} pixels")
    return ", ".join(said)
