"""Scorers of feature matrices [n, d] that `gradfast.detectors` does not have: they serve comparisons alone."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from gradfast.detectors.scaling import NormScaler
from gradfast.errors import InputError

__all__ = ["InsideGaussian", "Matrix", "MixedHead", "Scorer"]

Matrix = NDArray[np.float64]


class Scorer(Protocol):
    """What a study asks of a detector; those of `gradfast.detectors` are such."""

    def fit(self, features_in: Matrix, features_out: Matrix | None = None, /) -> Any:
        """To finite samples in and, if it learns from them, out."""

    def score(self, features: Matrix, /) -> Any:
        """[n], higher = more out of distribution."""


class InsideGaussian:
    """Squared Mahalanobis distance of log-columns to the mean of in-distribution samples, Ledoit-Wolf covariance."""

    def fit(self, inside: Matrix, outside: Matrix | None = None) -> InsideGaussian:
        """To samples in; those out are not used."""
        self._scaler = NormScaler()
        self._gaussian = LedoitWolf().fit(self._scaler.fit_transform(inside))
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n] >= 0."""
        return np.asarray(self._gaussian.mahalanobis(self._scaler.transform(rows)))


class MixedHead:
    """The logistic H on columns of two kinds: those that are norms are log-scaled, the others are not.

    Args:
        norms: bool [d], which are norms.
        seed: of H.
    """

    def __init__(self, norms: NDArray[np.bool_], *, seed: int = 0) -> None:
        self._norms = norms
        self._head = LogisticRegression(max_iter=2000, random_state=seed)

    def fit(self, inside: Matrix, outside: Matrix | None = None) -> MixedHead:
        """To samples of both kinds."""
        if outside is None:
            raise InputError("outside: got None; H is a classifier and needs known outliers")
        rows = np.concatenate([inside, outside])
        self._scalers = [NormScaler(log=log).fit(rows[:, self._norms == log]) for log in (True, False)]
        self._head.fit(self._scaled(rows), np.repeat([0, 1], [len(inside), len(outside)]))
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """Log-odds of "out", [n]."""
        return np.asarray(self._head.decision_function(self._scaled(rows)))

    def _scaled(self, rows: Matrix) -> Matrix:
        kinds = zip(self._scalers, (True, False), strict=True)
        return np.concatenate(
            [scaler.transform(rows[:, self._norms == log]) for scaler, log in kinds], axis=1
        )
