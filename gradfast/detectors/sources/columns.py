"""The columns of a set of samples, with their names and where they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gradfast.detectors.sources.base import Source, fit_together
from gradfast.errors import InputError

__all__ = ["SourceColumns", "fit_sources", "run_sources"]


@dataclass(frozen=True)
class SourceColumns:
    """Columns [n, d] of a source, as detectors take them; rows are taken by indexing, as of `gradfast.Features`.

    Attributes:
        values: float32 [n, d].
        layers: the d names.
        settings: `columns` (the name of the source), `model_fingerprint` and `source_fingerprint`, which detectors compare.
        predictions: the model's classes, int64 [n].
        labels: int64 [n], -1 where unknown.
    """

    values: NDArray[np.float32]
    layers: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    predictions: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: int | slice | ArrayLike) -> SourceColumns:
        chosen = np.atleast_1d(
            np.arange(len(self))[rows if isinstance(rows, (int, slice)) else np.asarray(rows)]
        )
        return replace(
            self,
            values=self.values[chosen],
            predictions=None if self.predictions is None else self.predictions[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )

    @staticmethod
    def concat(parts: Sequence[SourceColumns]) -> SourceColumns:
        """All rows of several, in order; the first one's names and settings.

        Raises:
            InputError: none, or others' columns or settings.
        """
        if not parts:
            raise InputError("parts: got none; wanted at least one")
        first = parts[0]
        for part in parts:
            if (part.layers, part.settings) != (first.layers, first.settings):
                raise InputError("parts: got columns of several sources; wanted those of one")

        def joined(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if any(a is None for a in arrays) else np.concatenate(arrays)

        return replace(first, **{name: joined(name) for name in ("values", "predictions", "labels")})


def fit_sources(sources: Iterable[Source], batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Fits those that need it, in one pass over in-distribution training batches (x, y)."""
    fit_together(sources, batches)


def run_sources(
    sources: Sequence[Source], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, SourceColumns]:
    """Columns of all samples by each source's name: one forward pass per batch for all that share a tap.

    Raises:
        InputError: no samples, or two sources of one name, whose columns could not be told apart.
    """
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"sources: got {names.count(twice)} called {twice}; wanted one of a name in a run")
    parts: dict[str, list[NDArray[np.float32]]] = {source.name: [] for source in sources}
    predictions, labels = [], []
    for x, y in batches:
        for source, columns, of in _one_pass(sources, x):
            parts[source.name].append(columns.cpu().numpy())
            if source is sources[0]:
                predictions.append(of.predictions.cpu().numpy())
        labels.append(torch.as_tensor(y).cpu().numpy().astype(np.int64))
    if not labels:
        raise InputError("batches: got no samples; wanted at least one")
    return {
        source.name: SourceColumns(
            np.concatenate(parts[source.name]),
            tuple(source.names),
            source.columns_settings(),
            np.concatenate(predictions),
            np.concatenate(labels),
        )
        for source in sources
    }


def _one_pass(sources: Sequence[Source], x: Tensor) -> Iterator[tuple[Source, Tensor, Any]]:
    """Columns of one batch; sources with the same tap share its forward pass."""
    by_tap: dict[int, list[Source]] = {}
    for source in sources:
        by_tap.setdefault(id(source.tap), []).append(source)
    for group in by_tap.values():
        shared = group[0].tap(x, record=any(source.record for source in group))
        for source in group:
            yield source, source.of(shared), shared
