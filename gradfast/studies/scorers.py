"""Scorers of feature matrices [n, d] that `gradfast.detectors` does not have: they serve comparisons alone."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from gradfast.detectors import OneClassNorms, evaluate
from gradfast.detectors.scaling import NormScaler
from gradfast.errors import InputError
from gradfast.features import Features

__all__ = ["BestColumn", "Matrix", "MixedHead", "PerClass", "Scorer"]

Matrix = NDArray[np.float64]


class Scorer(Protocol):
    """What a study asks of a detector; those of `gradfast.detectors` are such."""

    def fit(self, features_in: Matrix, features_out: Matrix | None = None, /) -> Any:
        """To finite samples in and, if it learns from them, out."""

    def score(self, features: Matrix, /) -> Any:
        """[n], higher = more out of distribution."""


class PerClass:
    """`gradfast.detectors.OneClassNorms` on rows whose last column is the class that the model predicts."""

    def __init__(self, method: str, *, seed: int = 0) -> None:
        self._detector = OneClassNorms(method, folds=None, random_state=seed)

    def fit(self, inside: Matrix, outside: Matrix | None = None) -> PerClass:
        """To samples in; those out are not used."""
        self._detector.fit(_with_classes(inside))
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n]."""
        return np.asarray(self._detector.score(_with_classes(rows)))


def _with_classes(rows: Matrix) -> Features:
    norms = rows[:, :-1]
    names = [f"column.{i}" for i in range(norms.shape[1])]
    return Features.from_arrays(norms, layers=names, predictions=rows[:, -1].astype(np.int64))


class BestColumn:
    """One column as the score: the one that tells the samples fitted to apart best by AUROC, the first of equals.

    This is how the papers choose the step of input preprocessing, on validation samples in and out.
    """

    def fit(self, inside: Matrix, outside: Matrix | None = None) -> BestColumn:
        """To samples of both kinds."""
        if outside is None:
            raise InputError("outside: got None; the column is chosen on known outliers")
        areas = [evaluate(known, unknown).auroc for known, unknown in zip(inside.T, outside.T, strict=True)]
        self.column = int(np.argmax(areas))
        return self

    def score(self, rows: Matrix) -> NDArray[np.float64]:
        """[n]."""
        return np.asarray(rows[:, self.column])


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
