"""An epoch's batches: a function of the seed and the epoch alone, so that a run can go on at any of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gradfast.data import Pixels

__all__ = ["epoch_batches", "epoch_seed"]

_PADDING = 4  # pixels of zeros around the image before the crop; He et al. (2016), section 4.2


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch of a run."""
    return (seed * 1_000_003 + epoch) % 2**63


def epoch_batches(
    data: Pixels, batch_size: int, seed: int, epoch: int, augment: bool, crop: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in a random order, cropped and flipped at random if they are to be augmented.

    Yields:
        uint8 [B, C, H, W] and int64 [B]. A last batch of one image is left out: BatchNorm cannot take it.
    """
    generator = Generator().manual_seed(epoch_seed(seed, epoch))
    for rows in torch.randperm(len(data), generator=generator).split(batch_size):
        if len(rows) == 1 and len(data) > 1:
            continue
        x = data.bytes[rows]
        yield (_crop_and_flip(x, crop, generator) if augment else x), data.labels[rows]


def _crop_and_flip(x: Tensor, crop: int | None, generator: Generator) -> Tensor:
    b, _, *size = x.shape
    if crop is None:
        height, width = size
        x = F.pad(x, (_PADDING,) * 4)
    else:
        height = width = crop
    spare = (x.shape[2] - height, x.shape[3] - width)
    top, left = (torch.randint(0, n + 1, (b, 1), generator=generator) for n in spare)
    flip = torch.rand(b, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    across = torch.arange(width).expand(b, -1)
    columns = left + torch.where(flip, width - 1 - across, across)
    sample = torch.arange(b).view(-1, 1, 1)
    taken = x.permute(0, 2, 3, 1)[sample, rows.unsqueeze(2), columns.unsqueeze(1)]
    return taken.permute(0, 3, 1, 2)
