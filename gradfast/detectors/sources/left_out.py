"""Columns of the very samples that a source is fitted to, as of samples that it has not seen."""

from __future__ import annotations

import copy
import warnings
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from gradfast.detectors.sources.base import FittedSource, fit_in_one_pass
from gradfast.detectors.sources.taps import Activations
from gradfast.errors import InputError

__all__ = ["FOLDS", "LeftOut"]

FOLDS = 5


class LeftOut:
    """A source and its twins, fitted in one pass: twin i to all samples but those of fold i.

    A distance to what was fitted is smaller for the samples fitted to than for others, and much so where these are few for
    the width of the features; a threshold, or a classifier, on such distances takes every unseen sample for an outlier. A
    sample's fold follows from its content, so it is the same in every pass, in whatever order a loader gives the samples.

    Args:
        source: fitted to all samples.
        twins: how many of the `FOLDS` folds are left out in turn.
    """

    def __init__(self, source: FittedSource, twins: int) -> None:
        self.source, self.tap = source, source.tap
        self._twins = [copy.copy(source) for _ in range(twins)]
        self._seen = [0] * twins
        self._total = 0
        self._usable = False

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Takes in-distribution training batches (x, y), as `Source.fit`."""
        fit_in_one_pass([self], batches)

    def begin(self) -> None:
        self._seen, self._total, self._usable = [0] * len(self._twins), 0, True
        for source in (self.source, *self._twins):
            source.begin()
            source._fingerprint = None

    def update(self, activations: Activations, labels: Tensor) -> None:
        self.source.update(activations, labels)
        self._total += len(labels)
        folds = _folds(activations.x).to(labels.device)
        for i, twin in enumerate(self._twins):
            rows = folds != i
            if bool(rows.any()):
                self._seen[i] += int(rows.sum())
                twin.update(activations.rows(rows), labels[rows])

    def finish(self) -> None:
        self.source.finish()
        try:
            if 0 in self._seen or min(self._seen) == self._total:
                raise InputError(
                    f"batches: got {self._total} training samples; wanted some to fit to and some to leave out"
                )
            for twin in self._twins:
                twin.finish()
        except InputError as error:
            self._usable = False
            warnings.warn(
                f"{self.source.name}: got too few training samples to leave some out of the fit ({error}), so the threshold is set on"
                " samples that were fitted to; call calibrate with others",
                stacklevel=2,
            )

    def columns(self, x: Tensor) -> Tensor:
        """[B, d] float32 of samples that were fitted to, each by the twin that was not; NaN where there is no such twin."""
        if not self._usable:
            return self.source.columns(x)
        x = self.tap._placed(x)
        folds = _folds(x).to(x.device)
        found = torch.full((len(x), len(self.source.names)), torch.nan, device=x.device)
        for i, twin in enumerate(self._twins):
            rows = folds == i
            if bool(rows.any()):
                found[rows] = twin.columns(x[rows])
        return found


def _folds(x: Tensor) -> Tensor:
    """Each sample's fold, int64 [B] on the CPU."""
    samples = x.detach().cpu().contiguous()
    return torch.tensor(
        [zlib.crc32(sample.reshape(-1).view(torch.uint8).numpy().data) % FOLDS for sample in samples]
    )
