"""The images of a set as one array, all sets of a study prepared alike: size, channels, compression."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from gradfast.data import ConversionWarning, ImageSet, Preprocess, jpeg, jpeg_quality, open_images
from gradfast.data.fingerprint import of_dataset
from gradfast.studies.cache import Cache, digest
from gradfast.studies.catalogue import Located

__all__ = ["Images", "Recipe", "compressed", "open_set", "read_images", "stored_quality"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")


@dataclass(frozen=True)
class Images:
    """Images of one set.

    Attributes:
        name: of the set.
        pixels: float32 [n, C, H, W] in [0, 1].
        labels: int64 [n], -1 where unknown.
        index: int64 [n], positions in the set.
        notes: what was done to them.
        classes: names of the labels, or None.
    """

    name: str
    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def fingerprint(self) -> str:
        """Hex SHA-256 of pixels and labels."""
        return digest(self.pixels, self.labels)


@dataclass(frozen=True)
class Recipe:
    """How images are prepared: `size` x `size` pixels, `channels`, and the JPEG quality that all are stored at."""

    size: int = 32
    channels: int = 3
    jpeg: int | None = None


def stored_quality(source: str) -> int | None:
    """JPEG quality at which the images of a source are stored, of its first eight; None if not all alike, or not JPEG."""
    path = Path(source)
    encoded: list[bytes] = []
    if path.is_dir() and not any(path.glob("*.parquet")):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        encoded = [file.read_bytes() for file in files[:8]]
    elif path.is_dir() or path.suffix == ".parquet":
        file = pq.ParquetFile(sorted(path.glob("*.parquet"))[0] if path.is_dir() else path)
        column = next((name for name in ("image", "img") if name in file.schema_arrow.names), None)
        if column is not None:
            rows = next(file.iter_batches(batch_size=8, columns=[column])).column(0).to_pylist()
            encoded = [row["bytes"] if isinstance(row, dict) else row for row in rows]
    found = {jpeg_quality(data) for data in encoded if data is not None}
    return found.pop() if len(found) == 1 else None


def open_set(located: Located, recipe: Recipe) -> tuple[ImageSet, tuple[str, ...]]:
    """Opens a set on disk to be prepared by a recipe, and says what that changes."""
    entry = located.entry
    assert located.source is not None
    raw, _ = _opened(located, Preprocess())[0]
    _, height, width = raw.shape
    notes = []
    if (height, width) != (recipe.size, recipe.size):
        notes.append(f"resized from {height}x{width} to {recipe.size}x{recipe.size}")
    grey = bool((raw == raw[:1]).all())
    if grey and recipe.channels == 3:
        notes.append("grey, as three equal channels")
    elif entry.grey or (not grey and recipe.channels == 1):
        notes.append("turned to grey")
    quality = None
    if recipe.jpeg is not None and entry.compress:
        stored = stored_quality(located.source)
        if stored != recipe.jpeg or (height, width) != (recipe.size, recipe.size):
            quality = recipe.jpeg
            notes.append(f"passed through JPEG, quality {quality}")
    if recipe.jpeg is not None and not entry.compress:
        notes.append("not compressed")
    prepare = Preprocess(
        size=recipe.size, channels=1 if entry.grey or recipe.channels == 1 else 3, jpeg_quality=quality
    )
    return _opened(located, prepare), tuple(notes)


def _opened(located: Located, prepare: Preprocess) -> ImageSet:
    assert located.source is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # the notes say it
        return open_images(located.source, prepare, split=located.entry.split)


def read_images(
    located: Located, recipe: Recipe, *, limit: int, seed: int, cache: Cache, name: str | None = None
) -> Images:
    """`limit` images of a set, drawn at random without repetition, in the order of the set.

    Args:
        located: a set on disk, or one that is made up.
        recipe: how they are prepared.
        limit: how many at most.
        seed: of the draw, and of made-up images.
        cache: where decoded images are kept.
        name: what to call them; default: the set's name.

    Raises:
        InputError: a set that cannot be read.
    """
    entry = located.entry
    if located.source is None:
        return _noise(entry.noise or "", recipe, limit, seed, entry.compress, name or entry.name)
    images, notes = open_set(located, recipe)
    n = len(images)
    index = np.sort(np.random.default_rng(seed).permutation(n)[:limit]).astype(np.int64)
    key = {
        "set": of_dataset(images),
        "preprocess": images.preprocess.settings(),
        "limit": limit,
        "seed": seed,
    }
    found = cache.by_parts("images", key, len(index), 1000, lambda rows: _decoded(images, index[rows]))
    pixels = found["pixels"].astype(np.float32) / np.float32(255)
    if pixels.shape[1] != recipe.channels:
        pixels = np.repeat(pixels, recipe.channels, axis=1)
    if len(index) < n:
        notes = (*notes, f"{len(index):,} of {n:,}, drawn with seed {seed}")
    return Images(name or entry.name, pixels, found["labels"], index, notes, images.classes)


def compressed(pixels: NDArray[np.float32], quality: int | None) -> NDArray[np.float32]:
    """Images [n, C, H, W] in [0, 1] rounded to 8 bits, and passed through JPEG if there is a quality."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if quality is not None:
        levels = jpeg(torch.from_numpy(levels), quality).numpy()
    return np.asarray(levels / np.float32(255), dtype=np.float32)


def _decoded(images: ImageSet, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    read = [images[int(i)] for i in index]
    pixels = np.stack([np.rint(x.numpy() * 255).astype(np.uint8) for x, _ in read])
    return {"pixels": pixels, "labels": np.array([label for _, label in read], dtype=np.int64)}


def _noise(kind: str, recipe: Recipe, limit: int, seed: int, compress: bool, name: str) -> Images:
    rng = np.random.default_rng(seed)
    shape = (limit, recipe.channels, recipe.size, recipe.size)
    if kind == "gaussian":
        drawn, what = (
            rng.normal(0.5, 0.25, shape),
            "normal noise, mean 0.5, standard deviation 0.25, cut at 0 and 1",
        )
    else:
        drawn, what = rng.uniform(0, 1, shape), "uniform noise in [0, 1]"
    quality = recipe.jpeg if compress else None
    notes = (what, *([f"passed through JPEG, quality {quality}"] if quality else []))
    pixels = compressed(drawn.astype(np.float32), quality)
    return Images(name, pixels, np.full(limit, -1), np.arange(limit), notes)
