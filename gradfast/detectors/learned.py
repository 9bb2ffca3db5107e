"""Detectors that learn from known outliers: a classifier H of features."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from gradfast.detectors.base import Detector, usable
from gradfast.detectors.calibration import Calibrator
from gradfast.detectors.classifier import NormClassifier
from gradfast.detectors.explaining import ScoreExplanation, explain_scores
from gradfast.detectors.inputs import check_folds
from gradfast.detectors.metrics import threshold_at_tpr
from gradfast.errors import InputError

__all__ = ["LearnedDetector"]


class LearnedDetector(Detector):
    """H fitted to features of in-distribution samples and of known outliers.

    The threshold and the calibrated probability are set on scores of samples that H did not see, by
    cross-validation over `folds` folds; H itself is then fitted to all samples. With `folds=None` there are
    none until `calibrate` sets them on validation data of your own.
    """

    learns = True
    head: Any
    eps: float
    log: bool
    folds: int | None
    calibration: str
    random_state: int | None
    classifier_: NormClassifier

    @abstractmethod
    def _matrix(self, features: Any, argument: str = "features") -> NDArray[np.float64]: ...

    def _fit(self, inside: Any, outside: Any) -> None:
        check_folds(self.folds)
        calibrator = Calibrator(self.calibration)
        least = self.folds or 1
        rows_in = usable(self._matrix(inside, "features_in"), "features_in", least)
        rows_out = usable(self._matrix(outside, "features_out"), "features_out", least)
        X = np.concatenate([rows_in, rows_out])
        y = np.repeat([0, 1], [len(rows_in), len(rows_out)])
        classifier = NormClassifier(self.head, eps=self.eps, log=self.log, random_state=self.random_state)
        if self.folds is not None:
            folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state)
            unseen = cross_val_predict(classifier, X, y, cv=folds, method="decision_function")
            self.threshold_ = threshold_at_tpr(unseen[y == 0], self.tpr)
            self.calibrator_ = calibrator.fit(unseen[y == 0], unseen[y == 1])
        self.classifier_ = classifier.fit(X, y)
        self.n_in_, self.n_out_ = len(rows_in), len(rows_out)

    def _set_threshold(self, inside: Any) -> None:
        """Not on samples that H was fitted to."""

    def _score(self, features: Any) -> NDArray[np.float64]:
        X = self._matrix(features)
        finite = np.isfinite(X).all(axis=1)
        scores = np.full(len(X), np.nan)
        if finite.any():
            scores[finite] = self.classifier_.decision_function(X[finite])
        return scores

    def explain(self, features: Any) -> ScoreExplanation:
        """Which layers and classes spoke for the decision: each one's share in the score, compared with an average known sample.

        Args:
            features: features of the samples; or, to a detector that is bound to a model, a tensor of inputs.

        Raises:
            InputError: as `score`, or a sample that is not finite.
        """
        features = self._features_of(features)
        scores = self._scores_of(features)
        if np.isnan(scores).any():
            raise InputError(
                f"features: sample {int(np.isnan(scores).argmax())} is not finite, so there is no score to explain"
            )
        return explain_scores(
            self.classifier_,
            self._matrix(features),
            self.schema_,
            features,
            getattr(self, "threshold_", None),
        )

    def _payload(self) -> Any:
        return self.classifier_

    def _restore(self, payload: Any) -> None:
        self.classifier_ = payload

    @classmethod
    def _lost_params(cls, payload: Any, params: dict[str, Any]) -> dict[str, Any]:
        return {"head": payload.head} if params["head"] is None else {}
