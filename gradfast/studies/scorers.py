"""Scores of feature matrices [n, d], higher = more out of distribution: what stands between columns and metrics."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from gradfast.errors import InputError

__all__ = ["FirstColumn", "Head", "InsideGaussian", "LogSum", "Scorer"]

Matrix = NDArray[np.float64]


class Scorer(Protocol):
    """Fitted to finite rows of both kinds (`outside` is None for one that learns nothing of outliers)."""

    def fit(self, inside: Matrix, outside: Matrix | None) -> None: ...
    def score(self, rows: Matrix) -> NDArray[np.float64]: ...


class FirstColumn:
    """The column itself: a score that learns nothing."""

    def fit(self, inside: Matrix, outside: Matrix | None) -> None:
        """Checks that there is one column."""
        if inside.shape[1] != 1:
            raise InputError(f"columns: got {inside.shape[1]}; wanted 1, a score")

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n]."""
        return np.asarray(rows[:, 0])


class LogSum:
    """The logarithm of the sum of all columns: the norm of the whole gradient, without H."""

    def fit(self, inside: Matrix, outside: Matrix | None) -> None:
        """Nothing to fit."""

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n]."""
        return np.asarray(np.log(np.maximum(rows.sum(axis=1), np.finfo(np.float32).tiny)))


class InsideGaussian:
    """Squared Mahalanobis distance of log-columns to the mean of in-distribution samples, Ledoit-Wolf covariance."""

    def fit(self, inside: Matrix, outside: Matrix | None) -> None:
        """To samples in; those out are not used."""
        self._offset = _offsets(inside)
        self._scaler = StandardScaler()
        self._gaussian = LedoitWolf().fit(self._scaler.fit_transform(np.log(inside + self._offset)))

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n] >= 0."""
        return np.asarray(self._gaussian.mahalanobis(self._scaler.transform(np.log(rows + self._offset))))


class Head:
    """H on any columns: log scale where asked, standardise, classify.

    As `gradfast.detectors.NormClassifier` where all columns are log-scaled, but columns that are not may be negative.

    Args:
        kind: "logistic", "mlp" (two fully connected layers, 64 hidden units) or "boosting".
        log: bool [d], the columns to log-scale; or one bool for all.
        seed: of the head.
    """

    def __init__(
        self, kind: str = "logistic", *, log: NDArray[np.bool_] | bool = True, seed: int = 0
    ) -> None:
        self._head: Any = {
            "logistic": lambda: LogisticRegression(max_iter=2000, random_state=seed),
            "mlp": lambda: MLPClassifier((64,), alpha=1.0, max_iter=500, random_state=seed),
            "boosting": lambda: HistGradientBoostingClassifier(random_state=seed),
        }[kind]()
        self._log = log

    def fit(self, inside: Matrix, outside: Matrix | None) -> None:
        """To samples of both kinds."""
        if outside is None:
            raise InputError("outside: got None; H is a classifier and needs known outliers")
        rows = np.concatenate([inside, outside])
        self._logged = np.broadcast_to(self._log, rows.shape[1:])
        if (rows[:, self._logged] < 0).any():
            raise InputError("columns: some are negative; wanted columns >= 0 to take the logarithm of")
        self._offset = _offsets(rows[:, self._logged])
        self._scaler = StandardScaler()
        scaled = self._scaler.fit_transform(self._scaled(rows))
        self._head.fit(scaled, np.repeat([0, 1], [len(inside), len(outside)]))

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """Log-odds of "out", [n]."""
        scaled = self._scaler.transform(self._scaled(rows))
        if hasattr(self._head, "decision_function"):
            return np.asarray(self._head.decision_function(scaled))
        p = np.clip(self._head.predict_proba(scaled), np.finfo(np.float64).tiny, 1.0)
        return np.asarray(np.log(p[:, 1]) - np.log(p[:, 0]))

    def _scaled(self, rows: Matrix) -> Matrix:
        scaled: Matrix = rows.copy()
        scaled[:, self._logged] = np.log(rows[:, self._logged] + self._offset)
        return scaled


def _offsets(columns: Matrix) -> NDArray[np.float64]:
    """As in `NormClassifier`: a millionth of each column's mean keeps the logarithm finite."""
    mean = columns.mean(axis=0)
    return np.asarray(1e-6 * np.where(mean > 0, mean, 1.0))
