"""The interface of every detector: a scikit-learn classifier of features, a pytorch-ood detector of inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if

from gradfast.detectors.binding import Bindable
from gradfast.detectors.calibration import Calibrator
from gradfast.detectors.errors import NotFittedError
from gradfast.detectors.inputs import FeatureSchema, schema_of, usable_rows
from gradfast.detectors.interop import register_with_pytorch_ood
from gradfast.detectors.metrics import threshold_at_tpr
from gradfast.detectors.saving import Saved
from gradfast.detectors.sets import as_sets, is_plain, validated
from gradfast.errors import InputError

__all__ = ["Detector", "usable"]

Self = TypeVar("Self", bound="Detector")


def _has_probabilities(detector: Any) -> bool:
    return detector.learns or hasattr(detector, "calibrator_")


class Detector(Bindable, Saved, ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Scores how far out of distribution a sample is.

    Features are a `gradfast.Features`, the `GradNorms` of a batch, `SourceColumns`, or plain arrays [n, d] or
    [n, C, L]. A score is higher for a sample that is further out of distribution.

    As in scikit-learn: the constructor only stores its arguments, `fit` returns self and sets names that end in
    `_`, `get_params`, `set_params` and `sklearn.base.clone` work, `fit(X, y)` takes labels of two classes of which
    the second in order is "out", `predict(X)` gives labels, `decision_function` is above 0 where they say "out",
    and `score(X, y)` is the accuracy. As in pytorch-ood, once bound to a model (`bind`): `fit(loader)`, whose labels
    below 0 are known outliers, and `predict(x)` of a tensor of inputs gives a tensor of scores.

    Attributes:
        learns: whether `fit` needs known outliers.
        requires_fit: whether a score needs `fit`.
        threshold_: a sample with a score above it counts as out.
        classes_: the labels of "in" and "out"; 0 and 1 unless `fit` was given others.
        schema_: the features that it takes.
    """

    learns: ClassVar[bool] = False
    tpr: float
    threshold_: float
    calibrator_: Calibrator

    def fit(self: Self, features_in: Any, features_out: Any = None) -> Self:
        """Fits to in-distribution features and, if the detector learns from them, to known outliers.

        Args:
            features_in: features of in-distribution samples; or of both kinds, with labels; or, for a detector that is
                bound to a model, a loader of batches (x, y).
            features_out: features of known outliers; or labels [n] of two classes, the second of which is "out".

        Raises:
            InputError: features of different kinds, no outliers where they are needed, or too few samples.
        """
        if self._streams(features_in):
            return self._fit_stream(features_in)
        return self._fit_sets(features_in, features_out)

    def _fit_sets(self: Self, features_in: Any, features_out: Any) -> Self:
        plain = is_plain(features_in)
        if plain:
            features_in, features_out = validated(self, features_in, features_out, reset=True)
        inside, outside, classes = as_sets(features_in, features_out, self.learns, type(self).__name__)
        schema = self._schema(inside)
        if outside is not None:
            schema.require(
                self._schema(outside), "features_out", "the unknown set differs from the known one"
            )
        self.__dict__.pop("threshold_", None)
        self.__dict__.pop("calibrator_", None)
        self._fit(inside, outside if self.learns else None)
        self.schema_, self.classes_ = schema, classes
        if not plain:
            self.n_features_in_ = schema.rows * schema.columns
        if not hasattr(self, "threshold_"):
            self._set_threshold(inside)
        return self

    def score(self, features: Any, y: Any = None) -> Any:
        """One score per sample, [n] float64, higher = more out of distribution; NaN where a sample is not finite.

        With labels `y` [n], the share of them that `predict_labels` gives, as scikit-learn's classifiers do.

        Args:
            features: features of the samples; or, to a detector that is bound to a model, a tensor of inputs.
            y: labels [n].

        Raises:
            InputError: not fitted; or features of another model, contrast, loss, or other layers or classes, as far as the
                features know them: arrays know none, `GradNorms` not their model.

        Warns:
            PreparationWarning: features of images that were prepared in another way than those of the fit.
        """
        return (
            self._scores(features)
            if y is None
            else float(np.mean(self.predict_labels(features) == np.asarray(y)))
        )

    def _scores(self, given: Any) -> NDArray[np.float64]:
        return self._scores_of(self._features_of(given))

    def _scores_of(self, features: Any) -> NDArray[np.float64]:
        """Scores [n] of features; a tensor is no input here."""
        if is_plain(features) and hasattr(self, "n_features_in_"):
            self._require_fitted()
            features, _ = validated(self, features, None, reset=False)
        self._require_fitted()
        if hasattr(self, "schema_"):
            given = self._schema(features)
            self.schema_.require(given, "features")
            self.schema_.warn_of_preparation(given, "features")
        return self._score(features)

    def _schema(self, features: Any) -> FeatureSchema:
        """Which features these are."""
        return schema_of(features)

    @abstractmethod
    def _fit(self, inside: Any, outside: Any) -> None:
        """Fits to features and sets `n_in_` and `n_out_`; `outside` is None unless the detector learns."""

    @abstractmethod
    def _score(self, features: Any) -> NDArray[np.float64]: ...

    def _set_threshold(self, inside: Any) -> None:
        """Where `_fit` has set none: on the samples themselves, which a detector without fitted weights may do."""
        self._calibrate(inside)

    def predict(self, features: Any) -> Any:
        """Labels [n] of features; or, of a tensor of inputs to a detector that is bound to a model, scores [n].

        The label is `classes_[1]` (1 unless `fit` was given others) above the threshold. A sample with a NaN score
        counts as out.
        """
        if self.bound and isinstance(features, torch.Tensor):
            return self.predict_inputs(features)
        return self.predict_labels(features)

    def predict_labels(self, features: Any) -> NDArray[Any]:
        """`classes_[0]` (in) or `classes_[1]` (out of distribution) per sample, [n]."""
        scores = self._scores(features)
        out = ~(scores <= self._threshold())
        classes = getattr(self, "classes_", None)
        return out.astype(np.int64) if classes is None else np.asarray(classes)[out.astype(np.intp)]

    def decision_function(self, features: Any) -> NDArray[np.float64]:
        """Score minus threshold, [n]: above 0 where `predict` says out."""
        return self._scores(features) - self._threshold()

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, features: Any) -> NDArray[np.float64]:
        """Calibrated probabilities of in and out, [n, 2]; NaN where the score is.

        They hold where outliers are as frequent as they were in calibration, and of the same kind.

        Raises:
            InputError: the detector was not calibrated on known outliers.
        """
        scores = self._scores(features)
        if not hasattr(self, "calibrator_"):
            raise InputError(
                f"{type(self).__name__}: has no calibrated probability; call calibrate with known outliers"
            )
        return self.calibrator_.probabilities(scores)

    def calibrate(
        self: Self,
        features_in: Any,
        features_out: Any = None,
        *,
        tpr: float | None = None,
        method: str | None = None,
    ) -> Self:
        """Moves the threshold to accept a share `tpr` (default: the detector's own) of validation features.

        In-distribution samples suffice, and none of them should have been used in `fit`. With known outliers,
        `predict_proba` is calibrated too: `method` "platt" or "isotonic".

        Raises:
            InputError: no finite score, or a share outside (0, 1].
        """
        outside = None if features_out is None else self._features_of(features_out)
        return self._calibrate(self._features_of(features_in), outside, tpr, method)

    def _calibrate(
        self: Self,
        inside: Any,
        outside: Any = None,
        tpr: float | None = None,
        method: str | None = None,
    ) -> Self:
        scores = self._scores_of(inside)
        finite = scores[~np.isnan(scores)]
        if not len(finite):
            raise InputError(
                f"features_in: the scores of all {len(scores)} samples are NaN; wanted some to calibrate on"
            )
        if outside is not None:
            beyond = self._scores_of(outside)
            chosen: str = method or getattr(self, "calibration", None) or "platt"
            self.calibrator_ = Calibrator(chosen).fit(finite, beyond[~np.isnan(beyond)])
        self.threshold_ = threshold_at_tpr(finite, self.tpr if tpr is None else tpr)
        return self

    def _threshold(self) -> float:
        if not hasattr(self, "threshold_"):
            raise NotFittedError(f"{type(self).__name__}: has no threshold yet, call fit or calibrate first")
        return self.threshold_

    def _require_fitted(self) -> None:
        if self.requires_fit and not hasattr(self, "n_in_"):
            raise NotFittedError(f"{type(self).__name__}: not fitted yet, call fit or load first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "schema_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.requires_fit = self.requires_fit
        tags.target_tags.required = self.learns
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = not self.learns
        return tags


register_with_pytorch_ood(Detector)


def usable(matrix: NDArray[np.float64], argument: str, least: int) -> NDArray[np.float64]:
    """The finite rows; raises `InputError` if there are fewer than `least`."""
    rows = usable_rows(matrix, argument)
    if len(rows) < least:
        raise InputError(
            f"{argument}: got {len(rows)} usable samples, wanted at least folds = {least} (n_samples = {len(rows)})"
        )
    return rows
