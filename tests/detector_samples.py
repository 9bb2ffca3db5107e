"""Synthetic norms and a small network, shared by the tests of detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradfast import Features

ROWS, LAYERS = 3, 5


def norms(n: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Log-normal squared norms [n, ROWS, LAYERS] of layers whose scales differ by up to twelve orders of magnitude."""
    rng = np.random.default_rng(seed)
    scale = np.logspace(-9, 3, LAYERS)
    return (scale * np.exp(2 * rng.normal(size=(n, ROWS, LAYERS)) + shift)).astype(np.float32)


def features(n: int, seed: int, shift: float = 0.0, **given: Any) -> Features:
    """`norms` as features of a model with fingerprint "abc"."""
    settings = {"model_fingerprint": "abc", "contrast": "one-hot", "classes": None}
    arrays = {"classes": np.arange(ROWS), "settings": settings, **given}
    return Features.from_arrays(norms(n, seed, shift), layers=[f"layer{i}" for i in range(LAYERS)], **arrays)


def network(seed: int = 0) -> nn.Sequential:
    """A classifier of images [B, 3, 8, 8] into five classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip


def batches(
    n: int = 20, size: int = 10, seed: int = 0, label: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Batches (x, y) of images in [0, 1]; those of a label below 0 are brighter and coarser."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n // size):
        x = torch.rand(size, 3, 8, 8, generator=generator)
        if label is not None and label < 0:
            x = torch.nn.functional.interpolate(1.5 * x[:, :, ::4, ::4], size=8)
        y = torch.randint(0, 5, (size,), generator=generator) if label is None else torch.full((size,), label)
        found.append((x, y))
    return found
