"""A random sample of a stream, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Reservoir"]


class Reservoir:
    """At most `limit` rows of a stream, every row as likely as any other; which ones depends on the seed alone."""

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0)
        self._rows: list[Tensor] = []
        self.seen = 0

    def add(self, *rows: Tensor) -> None:
        """Takes tensors [B, ...] of the same rows; as many and of the same kinds each time."""
        self.seen += len(rows[0])
        keys = torch.cat(
            [self._keys, torch.rand(len(rows[0]), generator=self._generator, dtype=torch.float64)]
        )
        held = [torch.cat(pair) for pair in zip(self._rows, rows, strict=True)] if self._rows else list(rows)
        if len(keys) > self._limit:
            kept = keys.topk(self._limit, largest=False).indices.sort().values
            keys, held = keys[kept], [tensor[kept.to(tensor.device)] for tensor in held]
        self._keys, self._rows = keys, held

    def rows(self) -> list[Tensor]:
        """The rows kept, in their order of arrival."""
        return self._rows
