"""H: the classifier that tells in-distribution from out-of-distribution gradient norms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gradfast.detectors.scaling import NormScaler
from gradfast.errors import InputError

__all__ = ["HEADS", "NormClassifier"]

HEADS = ("logistic", "mlp", "boosting")


class NormClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Log scale, standardise, classify: a scikit-learn classifier of non-negative features [n, d].

    The scale is that of `NormScaler`; the head is

    - "logistic": L2-penalised logistic regression;
    - "mlp": a perceptron of two fully connected layers, as in the Purview paper: 64 hidden ReLU units, L2 penalty 1;
    - "boosting": 200 histogram gradient-boosted trees of at most 8 leaves;
    - or any scikit-learn classifier, which is cloned.

    Parameters: `head`; `eps`: > 0; `log`: False leaves out the log scale, and takes features of any sign;
    `random_state`: int or None, for the named heads.

    Fitted attributes: `classes_`, `scaling_` (a `NormScaler`), `inside_` [d] (the mean scaled features of
    `classes_[0]`), `head_`, `n_features_in_`.
    """

    def __init__(
        self,
        head: Any = "logistic",
        *,
        eps: float = 1e-6,
        log: bool = True,
        random_state: int | None = 0,
    ) -> None:
        self.head = head
        self.eps = eps
        self.log = log
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> NormClassifier:
        """Fits to features X [n, d] and classes y [n]: 0 = in, 1 = out of distribution."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise InputError(
                f"y: got 1 class, {self.classes_.tolist()}, wanted samples of two classes or more"
            )
        self.scaling_ = NormScaler(eps=self.eps, log=self.log)
        scaled = self.scaling_.fit_transform(X)
        self.inside_ = scaled[y == self.classes_[0]].mean(axis=0)
        self.head_ = _make_head(self.head, self.random_state)
        self.head_.fit(scaled, y)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The more likely class of each sample, [n]."""
        scaled = self.scale(X)
        return np.asarray(self.head_.predict(scaled))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities, [n, classes]; AttributeError if the head has none."""
        scaled = self.scale(X)
        return np.asarray(self.head_.predict_proba(scaled))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Confidence in `classes_[1]`, [n], or [n, classes] if more than two: the head's own, else log-odds."""
        return self.decide(self.scale(X))

    def decide(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """`decision_function` of features that are scaled already."""
        if hasattr(self.head_, "decision_function"):
            return np.asarray(self.head_.decision_function(scaled))
        log_p = np.log(np.clip(self.head_.predict_proba(scaled), np.finfo(np.float64).tiny, 1.0))
        return np.asarray(log_p if len(self.classes_) > 2 else log_p[:, 1] - log_p[:, 0])

    def scale(self, X: Any) -> NDArray[np.float64]:
        """What the head sees of features X [n, d]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.scaling_.transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self.log
        return tags


def _make_head(head: Any, random_state: int | None) -> Any:
    if isinstance(head, str):
        if head == "logistic":
            return LogisticRegression(max_iter=2000, random_state=random_state)
        if head == "mlp":
            return MLPClassifier((64,), alpha=1.0, max_iter=500, random_state=random_state)
        if head == "boosting":
            return HistGradientBoostingClassifier(
                max_iter=200, max_leaf_nodes=8, l2_regularization=1.0, early_stopping=False,
                random_state=random_state,
            )  # fmt: skip
        raise InputError(
            f"head: got {head!r}, wanted {' or '.join(map(repr, HEADS))} or a scikit-learn classifier"
        )
    if not hasattr(head, "fit") or not (hasattr(head, "decision_function") or hasattr(head, "predict_proba")):
        raise InputError(
            f"head: got {head!r}, wanted a scikit-learn classifier with decision_function or predict_proba"
        )
    return clone(head)
