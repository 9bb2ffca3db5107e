"""Many detectors over one stream of inputs: each forward pass and each pass of norms is taken once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradfast.data.batches import as_batches
from gradfast.data.samples import Batch
from gradfast.detectors.base import Detector
from gradfast.detectors.readers import NormReader, Reader, SourceReader, read_inputs
from gradfast.detectors.sources.base import Source
from gradfast.errors import InputError
from gradfast.extractor import FeatureExtractor
from gradfast.features import Features

__all__ = ["StreamScorer"]

Scores = dict[str, NDArray[np.float64]]


class StreamScorer:
    """Scores of several detectors, batch by batch, in bounded memory.

    ::

        scorer = StreamScorer({"purview": purview, "forest": forest, "energy": energy})
        for scores in scorer.stream(loader):
            scores["purview"]                                       # float64 [B]

    Detectors of norms that differ in layers alone share one pass of norms; sources of one model, one forward pass. The
    norms take a forward pass of their own.

    Args:
        detectors: by name, each bound to a model (`Detector.bind`).
        batch_size: samples at a time, for sources that are not in batches already.

    Raises:
        InputError: none, or one that is not bound.
    """

    def __init__(self, detectors: Mapping[str, Detector], batch_size: int = 64) -> None:
        if not detectors:
            raise InputError("detectors: got none; wanted at least one")
        self.detectors = dict(detectors)
        self.batch_size = batch_size
        readers = {name: detector.reader for name, detector in self.detectors.items()}
        self._groups: list[_Norms | _Sources | _Alone] = []
        by_key: dict[Any, dict[str, Reader]] = {}
        for name, reader in readers.items():
            by_key.setdefault(_key(name, reader), {})[name] = reader
        for group in by_key.values():
            first = next(iter(group.values()))
            kind = (
                _Norms
                if isinstance(first, NormReader)
                else _Sources
                if isinstance(first, SourceReader)
                else _Alone
            )
            self._groups.append(kind(group))  # type: ignore[arg-type]

    def scores(self, x: Any) -> Scores:
        """Scores [B] of one batch by each detector's name; NaN where a sample is not finite.

        Raises:
            InputError: features other than a detector was fitted to.
        """
        features = {name: found for group in self._groups for name, found in read_inputs(group, x).items()}
        return {name: detector._scores_of(features[name]) for name, detector in self.detectors.items()}

    def stream(self, source: Any, workers: int = 0) -> Iterator[Scores]:
        """Scores batch by batch; `source` as `FeatureExtractor.extract` takes it, or an iterator of batches."""
        batches = (
            map(Batch.of, source)
            if isinstance(source, Iterator)
            else as_batches(source, self.batch_size, workers).iterate()
        )
        for batch in batches:
            yield self.scores(batch.inputs)

    def run(self, source: Any, workers: int = 0) -> Scores:
        """Scores [n] of all samples."""
        parts = list(self.stream(source, workers))
        if not parts:
            raise InputError("source: it gave no samples; wanted at least one")
        return {name: np.concatenate([part[name] for part in parts]) for name in self.detectors}


def _key(name: str, reader: Reader) -> Any:
    """Equal for readers that can share a pass."""
    if isinstance(reader, NormReader):
        of = reader.extractor
        return ("norms", id(of.model), *map(_by_value, (of.contrast, of.loss, of.classes)), of.dtype)
    if isinstance(reader, SourceReader):
        tap = reader.source.tap
        return ("sources", id(tap.model), *tap.asked)
    return name


def _by_value(setting: Any) -> Any:
    if isinstance(setting, (list, np.ndarray)):
        return tuple(setting)
    return id(setting) if isinstance(setting, Tensor) else setting


class _Norms:
    """One pass over all layers that any asks for."""

    def __init__(self, readers: dict[str, NormReader]) -> None:
        self._readers = readers
        first = next(iter(readers.values())).extractor
        asked = [reader.extractor.layers for reader in readers.values()]
        layers = None
        if all(some is not None for some in asked):
            layers = sorted(
                {name for some in asked for name in ([some] if isinstance(some, str) else some or ())}
            )
        self._wanted = dict(zip(readers, asked, strict=True))
        self._reader = NormReader(
            FeatureExtractor(
                first.model, contrast=first.contrast, loss=first.loss, classes=first.classes, layers=layers,
                dtype=first.dtype, memory_budget=first.memory_budget,
            )
        )  # fmt: skip

    def read(self, x: Any) -> dict[str, Features]:
        features = self._reader.read(x)
        return {name: features.select(layers=layers) for name, layers in self._wanted.items()}


class _Sources:
    """One forward pass, recorded if any of them needs the gradient of the input."""

    def __init__(self, readers: dict[str, SourceReader]) -> None:
        self._readers = readers
        self._sources: list[Source] = [reader.source for reader in readers.values()]

    def read(self, x: Any) -> dict[str, Any]:
        activations = self._sources[0].tap(x, record=any(source.record for source in self._sources))
        return {name: reader.wrap(reader.source.of(activations)) for name, reader in self._readers.items()}


class _Alone:
    """A reader that shares nothing."""

    def __init__(self, readers: dict[str, Reader]) -> None:
        self._readers = readers

    def read(self, x: Any) -> dict[str, Any]:
        return {name: reader.read(x) for name, reader in self._readers.items()}
