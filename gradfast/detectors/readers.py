"""From a batch of inputs to the features that a detector takes: norms, the columns of a source, logits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradfast.detectors.sources.base import FittedSource, Source
from gradfast.detectors.sources.columns import SourceColumns
from gradfast.detectors.sources.left_out import LeftOut
from gradfast.detectors.sources.taps import Tap
from gradfast.errors import GradfastError, InputError, describe
from gradfast.extractor import FeatureExtractor
from gradfast.features import Features
from gradfast.models.fingerprint import fingerprint

__all__ = ["LogitReader", "NormReader", "Reader", "SourceReader", "read_inputs"]


def read_inputs(reader: Any, x: Any) -> Any:
    """`reader.read(x)`; what the model itself cannot take is an `InputError` that names it."""
    try:
        return reader.read(x)
    except GradfastError:
        raise
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"x: the model cannot take {describe(x)} ({first})") from error


class Reader(Protocol):
    """Reads a batch of inputs for a detector."""

    needs_fit: bool
    batch_size: int

    @property
    def model(self) -> nn.Module:
        """The model that is read."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the features depend on, as detectors compare it."""

    def read(self, x: Any) -> Any:
        """Features of one batch."""

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], twins: int = 1) -> Any:
        """Takes in-distribution training batches, if `needs_fit`; gives what reads these very samples, see `LeftOut`."""


class NormReader:
    """Squared gradient norms, by a `FeatureExtractor`."""

    needs_fit = False

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.batch_size = extractor.batch_size

    @property
    def model(self) -> nn.Module:
        return self.extractor.model

    @cached_property
    def settings(self) -> dict[str, Any]:
        # Once: the fingerprint reads every weight.
        return self.extractor.settings()

    def read(self, x: Any) -> Features:
        norms = self.extractor.norms(x)
        values, logits = norms.values.float().cpu(), norms.logits.float().cpu()
        classes = None if norms.classes is None else norms.classes.cpu()
        return Features.from_arrays(
            values, layers=norms.layers, logits=logits, classes=classes, settings=self.settings
        )

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], twins: int = 1) -> Any:
        """Nothing to fit."""
        return self


class SourceReader:
    """The columns of a source."""

    def __init__(self, source: Source, batch_size: int = 64) -> None:
        self.source = source
        self.batch_size = batch_size
        self.needs_fit = source.needs_fit

    @property
    def model(self) -> nn.Module:
        return self.source.model

    @property
    def settings(self) -> dict[str, Any]:
        return self.source.columns_settings()

    def read(self, x: Any) -> SourceColumns:
        return self.wrap(self.source.columns(_tensor(x)))

    def wrap(self, columns: Tensor) -> SourceColumns:
        """Columns of this source as detectors take them."""
        return SourceColumns(columns.cpu().numpy(), tuple(self.source.names), self.settings)

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], twins: int = 1) -> Any:
        if not isinstance(self.source, FittedSource):
            return self
        left_out = LeftOut(self.source, twins)
        left_out.fit(batches)
        return _OwnSamples(self, left_out)


class _OwnSamples:
    """Reads the samples that a source was fitted to as if it had not seen them."""

    def __init__(self, reader: SourceReader, left_out: LeftOut) -> None:
        self._reader, self._left_out = reader, left_out

    def read(self, x: Any) -> SourceColumns:
        return self._reader.wrap(self._left_out.columns(_tensor(x)))


class LogitReader:
    """Logits alone, [B, K], as columns that know their model."""

    needs_fit = False

    def __init__(self, tap: Tap, batch_size: int = 64) -> None:
        self.tap = tap
        self.batch_size = batch_size

    @property
    def model(self) -> nn.Module:
        return self.tap.model

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"columns": "logits", "model_fingerprint": fingerprint(self.model)}

    def read(self, x: Any) -> SourceColumns:
        logits = self.tap(_tensor(x)).logits.detach().float().cpu().numpy()
        return SourceColumns(logits, settings=self.settings)

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], twins: int = 1) -> Any:
        """Nothing to fit."""
        return self


def _tensor(x: Any) -> Tensor:
    return torch.as_tensor(x) if not isinstance(x, Tensor) else x
