"""The Purview detector: gradient norms against contrast labels, and a classifier H of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gradfast.detectors.inputs import norm_matrix
from gradfast.detectors.learned import LearnedDetector
from gradfast.detectors.norm_reader import norm_reader
from gradfast.detectors.readers import Reader

__all__ = ["Purview"]


class Purview(LearnedDetector):
    """H trained on the squared gradient norms of known in- and known out-of-distribution samples.

    Lee, Lehman, Prabhushankar & AlRegib, "Probing the Purview of Neural Networks via Gradient Analysis", IEEE
    Access 11 (2023), with the all-ones contrast; the one-hot contrast gives H one norm per class and layer.
    The norms are log-scaled and standardised (see `NormClassifier`). H saw outliers of some kind: how it does
    on other kinds is a separate question, which a test that leaves the kind out of the fit answers.

    Parameters: `head`, `eps`, `log` and `random_state` as in `NormClassifier`; `tpr`: the share of in-distribution
    samples that `predict` is to accept; `folds`: the threshold and the probability are set on scores of samples that
    H did not see, by cross-validation over this many folds (H itself is then fitted to all samples). With `folds=None`
    there are none until `calibrate` sets them on validation data of your own; `calibration`: "platt" or "isotonic", how
    `predict_proba` comes from scores.

    Bound to a model, `Purview().bind(model, contrast="all-ones")`, it takes inputs and loaders.

    Fitted attributes: `classifier_`, `threshold_`, `calibrator_`, `schema_` (the features that it takes), `n_in_`,
    `n_out_`.
    """

    def __init__(
        self,
        head: Any = "logistic",
        *,
        eps: float = 1e-6,
        log: bool = True,
        tpr: float = 0.95,
        folds: int | None = 5,
        calibration: str = "platt",
        random_state: int | None = 0,
    ) -> None:
        self.head = head
        self.eps = eps
        self.log = log
        self.tpr = tpr
        self.folds = folds
        self.calibration = calibration
        self.random_state = random_state

    def _matrix(self, features: Any, argument: str = "features") -> NDArray[np.float64]:
        return norm_matrix(features, argument)

    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader:
        return norm_reader(model, settings, getattr(self, "schema_", None))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags
