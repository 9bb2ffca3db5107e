"""H: the classifier that tells in-distribution from out-of-distribution gradient norms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gradfast.errors import InputError

__all__ = ["HEADS", "NormClassifier"]

HEADS = ("logistic", "mlp")


class NormClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Log scale, standardise, classify: a scikit-learn classifier of non-negative features [n, d].

    Squared gradient norms span many orders of magnitude, so column j becomes

        log(x_j + eps * mean_j)        mean_j: the mean of column j over the training samples (1 if that is 0)

    which is unchanged by a rescaling of any column, and finite where a gradient vanishes. The columns are
    then brought to zero mean and unit variance, and handed to the head.

    Parameters: `head`: "logistic" (L2-penalised logistic regression), "mlp" (a perceptron of two fully
    connected layers, 64 hidden ReLU units, L2 penalty 1) or any scikit-learn classifier, which is cloned;
    `eps`: > 0; `random_state`: int or None, for the two named heads.

    Fitted attributes: `classes_`, `offset_` [d] (eps * mean_j), `scaler_`, `head_`, `n_features_in_`.
    """

    def __init__(self, head: Any = "logistic", *, eps: float = 1e-6, random_state: int | None = 0) -> None:
        self.head = head
        self.eps = eps
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> NormClassifier:
        """Fits to features X [n, d] >= 0 and classes y [n]: 0 = in, 1 = out of distribution."""
        if not self.eps > 0:
            raise InputError(f"eps: got {self.eps}, wanted a number above 0")
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        _check_non_negative(X)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise InputError(
                f"y: got 1 class, {self.classes_.tolist()}, wanted samples of two classes or more"
            )
        mean = X.mean(axis=0)
        self.offset_ = self.eps * np.where(mean > 0, mean, 1.0)
        self.scaler_ = StandardScaler()
        self.head_ = _make_head(self.head, self.random_state)
        self.head_.fit(self.scaler_.fit_transform(np.log(X + self.offset_)), y)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The more likely class of each sample, [n]."""
        scaled = self._transform(X)
        return np.asarray(self.head_.predict(scaled))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities, [n, classes]; AttributeError if the head has none."""
        scaled = self._transform(X)
        return np.asarray(self.head_.predict_proba(scaled))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Confidence in `classes_[1]`, [n], or [n, classes] if more than two: the head's own, else log-odds."""
        scaled = self._transform(X)
        if hasattr(self.head_, "decision_function"):
            return np.asarray(self.head_.decision_function(scaled))
        log_p = np.log(np.clip(self.head_.predict_proba(scaled), np.finfo(np.float64).tiny, 1.0))
        return np.asarray(log_p if len(self.classes_) > 2 else log_p[:, 1] - log_p[:, 0])

    def _transform(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        _check_non_negative(X)
        return np.asarray(self.scaler_.transform(np.log(X + self.offset_)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


def _make_head(head: Any, random_state: int | None) -> Any:
    if isinstance(head, str):
        if head == "logistic":
            return LogisticRegression(max_iter=2000, random_state=random_state)
        if head == "mlp":
            return MLPClassifier((64,), alpha=1.0, max_iter=500, random_state=random_state)
        raise InputError(
            f"head: got {head!r}, wanted {' or '.join(map(repr, HEADS))} or a scikit-learn classifier"
        )
    if not hasattr(head, "fit") or not (hasattr(head, "decision_function") or hasattr(head, "predict_proba")):
        raise InputError(
            f"head: got {head!r}, wanted a scikit-learn classifier with decision_function or predict_proba"
        )
    return clone(head)


def _check_non_negative(X: NDArray[np.float64]) -> None:
    if X.size and X.min() < 0:
        # scikit-learn's checks look for these opening words.
        raise InputError(
            "Negative values in data passed to NormClassifier: X must hold squared norms, which are >= 0"
        )
