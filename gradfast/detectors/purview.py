"""The Purview detector: gradient norms against contrast labels, and a classifier H of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from gradfast.detectors.base import Detector
from gradfast.detectors.classifier import NormClassifier
from gradfast.detectors.inputs import norm_matrix, schema_of, usable_rows
from gradfast.detectors.metrics import threshold_at_tpr
from gradfast.detectors.persistence import load_state, save_state
from gradfast.errors import InputError

__all__ = ["Purview"]


class Purview(Detector):
    """H trained on the squared gradient norms of known in- and known out-of-distribution samples.

    Lee, Lehman, Prabhushankar & AlRegib, "Probing the Purview of Neural Networks via Gradient Analysis", IEEE
    Access 11 (2023), with the all-ones contrast; the one-hot contrast gives H one norm per class and layer.
    The norms are log-scaled and standardised (see `NormClassifier`). H saw outliers of some kind: how it does
    on other kinds is a separate question, which a test that leaves the kind out of the fit answers.

    Parameters: `head`, `eps` and `random_state` as in `NormClassifier`; `tpr`: the share of in-distribution
    samples that `predict` is to accept; `folds`: the threshold is set on scores of samples that H did not
    see, by cross-validation over this many folds (H itself is then fitted to all samples). With `folds=None`
    there is none until `calibrate` sets it on validation data of your own.

    Fitted attributes: `classifier_`, `threshold_`, `schema_` (the features that it takes), `n_in_`, `n_out_`.
    """

    def __init__(
        self,
        head: Any = "logistic",
        *,
        eps: float = 1e-6,
        tpr: float = 0.95,
        folds: int | None = 5,
        random_state: int | None = 0,
    ) -> None:
        self.head = head
        self.eps = eps
        self.tpr = tpr
        self.folds = folds
        self.random_state = random_state

    def fit(self, features_in: Any, features_out: Any = None) -> Purview:
        """Fits H to features [n, C, L] (or arrays [n, d]) of both kinds; samples not finite are left out.

        Raises `InputError` if the two hold different features or fewer samples than folds.
        """
        if features_out is None:
            raise InputError(
                "features_out: got None; H is a classifier and needs known out-of-distribution features"
            )
        schema = schema_of(features_in)
        schema.require(schema_of(features_out), "features_out")
        inside = usable_rows(norm_matrix(features_in, "features_in"), "features_in")
        outside = usable_rows(norm_matrix(features_out, "features_out"), "features_out")
        for argument, rows in (("features_in", inside), ("features_out", outside)):
            if len(rows) < (self.folds or 1):
                raise InputError(
                    f"{argument}: got {len(rows)} usable samples, wanted at least folds = {self.folds}"
                )
        X = np.concatenate([inside, outside])
        y = np.repeat([0, 1], [len(inside), len(outside)])

        classifier = NormClassifier(self.head, eps=self.eps, random_state=self.random_state)
        self.__dict__.pop("threshold_", None)
        if self.folds is not None:
            folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state)
            unseen = cross_val_predict(classifier, X, y, cv=folds, method="decision_function")
            self.threshold_ = threshold_at_tpr(unseen[y == 0], self.tpr)
        self.classifier_ = classifier.fit(X, y)
        self.schema_ = schema
        self.n_in_, self.n_out_ = len(inside), len(outside)
        return self

    def score(self, features: Any) -> NDArray[np.float64]:
        """H's decision function, [n] (for the named heads: log-odds of "out"); NaN where not finite.

        Raises `InputError` if the features are of another model, contrast, loss, or other layers or classes.
        """
        if not hasattr(self, "classifier_"):
            raise InputError("Purview: not fitted yet, call fit or load first")
        self.schema_.require(schema_of(features), "features")
        X = norm_matrix(features)
        finite = np.isfinite(X).all(axis=1)
        scores = np.full(len(X), np.nan)
        if finite.any():
            scores[finite] = self.classifier_.decision_function(X[finite])
        return scores

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes `detector.json` and `classifier.skops` (no pickle) to a directory; see `load`."""
        if not hasattr(self, "classifier_"):
            raise InputError("Purview: not fitted yet, nothing to save")
        params = {name: value for name, value in self.get_params(deep=False).items() if name != "head"}
        head = self.head if isinstance(self.head, str) else None
        fitted = {"threshold": getattr(self, "threshold_", None), "n_in": self.n_in_, "n_out": self.n_out_}
        state = {"params": {"head": head, **params}, "fitted": fitted}
        return save_state(
            Path(directory), "Purview", state, self.schema_, self.classifier_, overwrite=overwrite
        )

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Purview:
        """A detector saved by `save`. Types outside scikit-learn and gradfast must be named in `trusted`."""
        state, schema, classifier = load_state(Path(directory), "Purview", trusted)
        params = dict(state["params"])
        if params["head"] is None:
            params["head"] = classifier.head
        detector = cls(**params)
        detector.classifier_, detector.schema_ = classifier, schema
        if state["fitted"]["threshold"] is not None:
            detector.threshold_ = float(state["fitted"]["threshold"])
        detector.n_in_, detector.n_out_ = int(state["fitted"]["n_in"]), int(state["fitted"]["n_out"])
        return detector
