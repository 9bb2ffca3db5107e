"""Detectors of norms that see in-distribution samples only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from torch import nn

from gradfast.detectors.base import Detector
from gradfast.detectors.inputs import check_folds, norm_matrix, predictions_of, usable_rows
from gradfast.detectors.metrics import threshold_at_tpr
from gradfast.detectors.norm_reader import norm_reader
from gradfast.detectors.readers import Reader
from gradfast.detectors.scaling import NormScaler
from gradfast.errors import InputError

__all__ = ["ONE_CLASS_METHODS", "OneClassNorms"]

ONE_CLASS_METHODS = ("mahalanobis", "mixture", "forest")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEWEST = 20  # samples of a predicted class; with fewer its samples are compared with those of all


class OneClassNorms(Detector):
    """How unusual a sample's log norms are among in-distribution samples that the model puts in the same class.

    Norms are log-scaled and standardised (`NormScaler`), and the mean of the predicted class is taken off. Then

    - "mahalanobis": squared Mahalanobis distance, with one covariance for all classes, shrunk as Ledoit & Wolf
      ("A well-conditioned estimator for large-dimensional covariance matrices", 2004);
    - "mixture": negative log-likelihood under a mixture of `mixtures` Gaussians per predicted class, in the `components`
      first principal components;
    - "forest": an isolation forest (Liu, Ting & Zhou, ICDM 2008) of 200 trees, in the same components.

    Samples of a class with fewer than 20 in the fit are compared with all samples, no mean taken off.
    Features without predictions or logits (plain arrays) count as one class. The threshold is set on scores of samples that
    were not fitted to, by cross-validation over `folds` folds; with `folds=None` there is none until `calibrate`.

    Fitted attributes: `parts_` (the fitted estimators), `threshold_`, `schema_`, `n_in_`.
    """

    def __init__(
        self,
        method: str = "mahalanobis",
        *,
        components: int = 50,
        mixtures: int = 2,
        eps: float = 1e-6,
        tpr: float = 0.95,
        folds: int | None = 5,
        random_state: int | None = 0,
    ) -> None:
        self.method = method
        self.components = components
        self.mixtures = mixtures
        self.eps = eps
        self.tpr = tpr
        self.folds = folds
        self.random_state = random_state

    def _fit(self, inside: Any, outside: Any) -> None:
        if self.method not in ONE_CLASS_METHODS:
            wanted = " or ".join(map(repr, ONE_CLASS_METHODS))
            raise InputError(f"method: got {self.method!r}, wanted {wanted}")
        check_folds(self.folds)
        matrix = norm_matrix(inside, "features_in")
        classes = _classes_of(inside, len(matrix))
        rows = usable_rows(matrix, "features_in")
        classes = classes[np.isfinite(matrix).all(axis=1)]
        least = max(2, self.folds or 0)
        if len(rows) < least:
            raise InputError(
                f"features_in: got {len(rows)} usable samples (n_samples = {len(rows)}), wanted at least {least}"
            )
        if self.folds is not None:
            unseen = np.empty(len(rows))
            for fit, rest in KFold(self.folds, shuffle=True, random_state=self.random_state).split(rows):
                parts = self._fit_parts(rows[fit], classes[fit])
                unseen[rest] = self._score_parts(parts, rows[rest], classes[rest])
            self.threshold_ = threshold_at_tpr(unseen, self.tpr)
        self.parts_ = self._fit_parts(rows, classes)
        self.n_in_, self.n_out_ = len(rows), 0

    def _set_threshold(self, inside: Any) -> None:
        """Not on samples that were fitted to."""

    def _score(self, features: Any) -> Floats:
        matrix = norm_matrix(features)
        finite = np.isfinite(matrix).all(axis=1)
        scores = np.full(len(matrix), np.nan)
        if finite.any():
            classes = _classes_of(features, len(matrix))[finite]
            scores[finite] = self._score_parts(self.parts_, matrix[finite], classes)
        return scores

    def _fit_parts(self, X: Floats, classes: Ints) -> dict[str, Any]:
        scaling = NormScaler(eps=self.eps)
        scaled = scaling.fit_transform(X)
        ids, counts = np.unique(classes, return_counts=True)
        known = ids[counts >= _FEWEST]
        centres = np.stack([np.zeros(X.shape[1]), *(scaled[classes == c].mean(axis=0) for c in known)])
        parts: dict[str, Any] = {"scaling": scaling, "known": known, "centres": centres}
        group = _group(known, classes)
        used = np.ones(len(X), dtype=np.bool_)
        # A class of few samples is compared with all, which are spread more widely than those of one class. Not so under
        # mixtures: likelihoods of a wider spread are lower, and no measure for samples of a narrower one.
        if len(known) and self.method != "mixture":
            parts["all"] = self._fit_space(scaled, [scaled])
            used = group > 0
        centred = (scaled - centres[group])[used]
        groups = [centred, *(centred[classes[used] == c] for c in known)]
        return {**parts, **self._fit_space(centred, groups)}

    def _fit_space(self, rows: Floats, groups: Sequence[Floats]) -> dict[str, Any]:
        """What scores rows that are centred already; `groups`: those that have a mixture each, the first of them all rows."""
        if self.method == "mahalanobis":
            return {"models": [LedoitWolf(assume_centered=True).fit(rows)]}
        pca = PCA(min(self.components, rows.shape[1], len(rows) - 1), random_state=self.random_state).fit(
            rows
        )
        if self.method == "forest":
            forest = IsolationForest(n_estimators=200, random_state=self.random_state)
            return {"pca": pca, "models": [forest.fit(pca.transform(rows))]}
        return {"pca": pca, "models": [self._mixture(pca.transform(group)) for group in groups]}

    def _mixture(self, rows: Floats) -> GaussianMixture:
        count = min(self.mixtures, len(rows))
        return GaussianMixture(count, reg_covar=1e-2, random_state=self.random_state).fit(rows)

    def _score_parts(self, parts: dict[str, Any], X: Floats, classes: Ints) -> Floats:
        group = _group(parts["known"], classes)
        centred = parts["scaling"].transform(X) - parts["centres"][group]
        scores = np.empty(len(X))
        for i in np.unique(group):
            rows = group == i
            alone = i == 0 and "all" in parts
            scores[rows] = self._score_space(
                parts["all"] if alone else parts, centred[rows], 0 if alone else i
            )
        return scores

    def _score_space(self, space: dict[str, Any], rows: Floats, group: int) -> Floats:
        if self.method == "mahalanobis":
            return np.asarray(space["models"][0].mahalanobis(rows))
        model = space["models"][group if self.method == "mixture" else 0]
        return np.asarray(-model.score_samples(space["pca"].transform(rows)))

    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader:
        return norm_reader(model, settings, getattr(self, "schema_", None))

    def _payload(self) -> Any:
        return self.parts_

    def _restore(self, payload: Any) -> None:
        self.parts_ = payload

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


def _classes_of(features: Any, n: int) -> Ints:
    """Predicted classes [n]; -1 for all where features do not say."""
    predictions = predictions_of(features)
    return np.full(n, -1) if predictions is None else predictions


def _group(known: Ints, classes: Ints) -> NDArray[np.intp]:
    """0 for classes that are not among the known, else 1 and up."""
    found = np.zeros(len(classes), dtype=np.intp)
    for i, c in enumerate(known):
        found[classes == c] = i + 1
    return found
