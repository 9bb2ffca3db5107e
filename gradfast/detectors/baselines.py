"""Detectors that learn nothing, to compare with: a score as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import nn

from gradfast.detectors.base import Detector
from gradfast.detectors.inputs import FeatureSchema, column_matrix, count, logit_matrix, norm_matrix
from gradfast.detectors.norm_reader import norm_reader
from gradfast.detectors.readers import LogitReader, Reader
from gradfast.detectors.source_binding import SourceDetector
from gradfast.detectors.sources.taps import Tap
from gradfast.errors import InputError

__all__ = ["MaximumSoftmax", "SourceScore", "SummedNorms"]

# What a norm of zero counts as under a logarithm, so that all scores are finite.
_LEAST = np.finfo(np.float64).tiny


class _Score(Detector):
    """`fit` needs in-distribution features only, for the threshold that accepts a share `tpr` of them."""

    requires_fit = False

    def __init__(self, *, tpr: float = 0.95) -> None:
        self.tpr = tpr

    def _fit(self, inside: Any, outside: Any) -> None:
        self.n_in_, self.n_out_ = count(inside), 0


class MaximumSoftmax(_Score):
    """One minus the largest softmax probability (Hendrycks & Gimpel, ICLR 2017), computed from logits [n, K].

    The score is -log of that probability: the same order of samples, without the ties of probabilities
    rounded to 1. It reads the logits that features carry; `SourceScore("max_softmax")` reads those of a source.
    """

    def _score(self, features: Any) -> NDArray[np.float64]:
        logits = logit_matrix(features)
        return np.asarray(logsumexp(logits, axis=1) - logits.max(axis=1))

    def _schema(self, features: Any) -> FeatureSchema:
        settings = getattr(features, "settings", None) or {}
        known = {key: settings[key] for key in ("model_fingerprint",) if key in settings}
        return FeatureSchema(rows=1, columns=logit_matrix(features).shape[1], settings=known)

    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader:
        settings = dict(settings)
        batch_size = settings.pop("batch_size", 64)
        return LogitReader(Tap(model, **settings), batch_size)


class SummedNorms(_Score):
    """The sum of all squared gradient norms of a sample: what the norms say without H, after `log` if wanted.

    The direction is the paper's, whose outliers have the larger norms. It is not the same for all models: a ResNet-20 on
    CIFAR-10 gives known images the larger ones (AUROC 0.30 against Tiny ImageNet, all-ones), so do not rely on it.
    """

    def __init__(self, *, log: bool = False, tpr: float = 0.95) -> None:
        self.log = log
        self.tpr = tpr

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def _score(self, features: Any) -> NDArray[np.float64]:
        norms = norm_matrix(features)
        # Layers of log norms count alike; the sum is the largest layers'.
        if self.log:
            norms = np.log(norms.clip(_LEAST))
        return np.asarray(norms.sum(axis=1))

    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader:
        return norm_reader(model, settings, getattr(self, "schema_", None))


class SourceScore(_Score, SourceDetector):
    """The one column of a source (see `gradfast.detectors.SOURCES`) as the score; it learns nothing.

    Bound to a model, `SourceScore("energy").bind(model)`, it takes inputs; sources that need in-distribution
    training samples take them from `fit(loader)`.
    """

    def __init__(self, source: str = "max_softmax", *, tpr: float = 0.95) -> None:
        self.source = source
        self.tpr = tpr

    def _score(self, features: Any) -> NDArray[np.float64]:
        columns = column_matrix(features)
        if columns.shape[1] != 1:
            raise InputError(
                f"features: got {columns.shape[1]} columns, wanted one, the score;"
                " SourceClassifier weighs several"
            )
        return columns[:, 0]
