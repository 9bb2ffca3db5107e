"""Rows of features in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Block", "Floats", "Ints"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """n rows of features.

    Attributes:
        index: int64 [n], the sample's position in its source.
        labels: int64 [n], -1 where unknown.
        predictions: int64 [n], -1 where there is none.
        flagged: bool [n], rows with values that are NaN or infinite.
        values: float32 [n, C, L].
        logits: float32 [n, K], or None.
        classes: int64 [n, C] where each sample has classes of its own, else None.
    """

    index: Ints
    labels: Ints
    predictions: Ints
    flagged: npt.NDArray[np.bool_]
    values: Floats
    logits: Floats | None = None
    classes: Ints | None = None

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def concat(blocks: Sequence[Block]) -> Block:
        """The rows of all blocks, which have the same columns, in order."""
        if len(blocks) == 1:
            return blocks[0]
        columns: dict[str, Any] = {}
        for field in fields(Block):
            parts = [getattr(block, field.name) for block in blocks]
            columns[field.name] = None if parts[0] is None else np.concatenate(parts)
        return Block(**columns)
