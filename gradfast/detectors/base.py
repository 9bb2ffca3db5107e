"""The interface of every detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from gradfast.detectors.metrics import threshold_at_tpr
from gradfast.errors import InputError

__all__ = ["Detector"]

Self = TypeVar("Self", bound="Detector")


class Detector(BaseEstimator, ABC):  # type: ignore[misc]
    """Scores how far out of distribution a sample is.

    As in scikit-learn: the constructor only stores its arguments, `fit` returns self and sets names that end
    in `_`, `get_params`, `set_params` and `sklearn.base.clone` work. As in pytorch-ood: one score per sample,
    higher = more out of distribution. Features are a `gradfast.Features`, the `GradNorms` of a batch, or
    plain arrays.
    """

    tpr: float
    threshold_: float

    @abstractmethod
    def fit(self: Self, features_in: Any, features_out: Any = None) -> Self:
        """Fits to in-distribution features and, if the detector takes them, to known outliers."""

    @abstractmethod
    def score(self, features: Any) -> NDArray[np.float64]:
        """One score per sample, [n], higher = more out of distribution; NaN where a sample is not finite."""

    def predict(self, features: Any) -> NDArray[np.int64]:
        """0 (in) or 1 (out of distribution) per sample, [n]; a sample with a NaN score counts as out."""
        if not hasattr(self, "threshold_"):
            raise InputError(f"{type(self).__name__}: has no threshold yet, call fit or calibrate first")
        return (~(self.score(features) <= self.threshold_)).astype(np.int64)

    def calibrate(self: Self, features_in: Any, tpr: float | None = None) -> Self:
        """Moves the threshold to accept a share `tpr` (default: the detector's own) of validation features
        [n, ...].

        In-distribution samples suffice, and none of them should have been used in `fit`.
        """
        scores = self.score(features_in)
        self.threshold_ = threshold_at_tpr(scores[~np.isnan(scores)], self.tpr if tpr is None else tpr)
        return self
