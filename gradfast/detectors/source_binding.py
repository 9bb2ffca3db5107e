"""Detectors of one source: how they are bound to a model, and what of the source is saved with them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradfast.detectors.base import Detector
from gradfast.detectors.readers import Reader, SourceReader
from gradfast.detectors.sources.base import FittedSource
from gradfast.detectors.sources.make import make_source

__all__ = ["SourceDetector"]


class SourceDetector(Detector):
    """A detector whose features are the columns of the source called `source`.

    What the source was fitted to (means, covariances, references) is saved with the detector, so that a loaded one needs no
    training samples; settings of the source that are not given to `bind` are those that were saved. `fit` of a loader sets
    the threshold, and H where there is one, on columns of samples that the source has not seen: of a fifth of them, and
    of all in five folds (`LeftOut`).
    """

    source: str
    _saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None

    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader:
        known, state = self._saved or ({}, {})
        settings = {**known, **settings}
        batch_size = settings.pop("batch_size", 64)
        if settings.get("std") is None:
            settings.pop("std", None)
        source = make_source(self.source, model, **settings)
        if state and isinstance(source, FittedSource):
            source.restore(state)
        return SourceReader(source, batch_size)

    def _tensors(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if isinstance(self._reader, SourceReader):
            source = self._reader.source
            return {**source.settings(), **source.places()}, source.state()
        return self._saved or ({}, {})

    def _restore_tensors(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._saved = (settings, tensors)
