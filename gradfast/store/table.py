"""Columns of features that lie in several places, read by column and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .block import Block, Ints
from .layout import column_of

__all__ = ["Columns", "MemoryPart", "Part", "Table"]

Columns = dict[str, npt.NDArray[Any]]


class Part(Protocol):
    """Consecutive rows: a file, a block in memory, or other features."""

    def __len__(self) -> int: ...

    def read(self, columns: Sequence[str]) -> Columns:
        """These columns, [rows] or [rows, width]."""


class MemoryPart:
    """A block in memory as a part."""

    def __init__(self, block: Block, layers: Sequence[str]) -> None:
        self.block = block
        self._layers = {column_of(layer): i for i, layer in enumerate(layers)}
        self._others = {
            "index": block.index,
            "label": block.labels,
            "prediction": block.predictions,
            "flagged": block.flagged,
            "logits": block.logits,
            "classes": block.classes,
        }

    def __len__(self) -> int:
        return len(self.block)

    def read(self, columns: Sequence[str]) -> Columns:
        """Views of the block."""
        return {name: self._column(name) for name in columns}

    def _column(self, name: str) -> npt.NDArray[Any]:
        column = self.block.values[:, :, self._layers[name]] if name in self._layers else self._others[name]
        assert column is not None
        return column


class Table:
    """Parts one after another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._ends = np.array(list(accumulate(len(part) for part in parts)), dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def gather(self, columns: Sequence[str], rows: Ints | None) -> Iterator[tuple[slice | Ints, Columns]]:
        """Reads part after part, each at most once, and only those that hold some of the rows.

        Args:
            columns: names.
            rows: which rows, in any order; None for all.

        Yields:
            Where the rows of a part belong in the result, and the columns of these rows.
        """
        if rows is None:
            for end, part in zip(self._ends, self.parts, strict=True):
                yield slice(end - len(part), end), part.read(columns)
            return
        of_part = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(of_part, kind="stable")
        numbers, firsts = np.unique(of_part[order], return_index=True)
        for number, positions in zip(numbers, np.split(order, firsts[1:]), strict=False):
            part = self.parts[number]
            local = rows[positions] - (self._ends[number] - len(part))
            yield positions, {name: column[local] for name, column in part.read(columns).items()}

    def read(self, columns: Sequence[str], rows: Ints | None = None) -> Columns:
        """Columns of these rows, in their order; of a single part without a copy."""
        if rows is None and len(self.parts) == 1:
            return self.parts[0].read(columns)
        result: Columns = {}
        n = len(self) if rows is None else len(rows)
        for positions, found in self.gather(columns, rows):
            for name, column in found.items():
                if name not in result:
                    result[name] = np.empty((n, *column.shape[1:]), dtype=column.dtype)
                result[name][positions] = column
        if not result:  # no rows: an empty read of any part tells the types
            return {name: column[:0] for name, column in self.parts[0].read(columns).items()}
        return result
