"""Detectors that need no gradient, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from gradfast.detectors.base import Detector
from gradfast.detectors.inputs import logit_matrix

__all__ = ["MaximumSoftmax"]


class MaximumSoftmax(Detector):
    """One minus the largest softmax probability (Hendrycks & Gimpel, ICLR 2017), computed from logits [n, K].

    The score is -log of that probability: the same order of samples, without the ties of probabilities
    rounded to 1. `fit` needs in-distribution features only, for the threshold that accepts a share `tpr` of
    them.
    """

    def __init__(self, *, tpr: float = 0.95) -> None:
        self.tpr = tpr

    def fit(self, features_in: Any, features_out: Any = None) -> MaximumSoftmax:
        """Sets the threshold; `features_out` is accepted for the common interface and not used."""
        return self.calibrate(features_in)

    def score(self, features: Any) -> NDArray[np.float64]:
        """-log max softmax, [n] float64 >= 0."""
        logits = logit_matrix(features)
        return np.asarray(logsumexp(logits, axis=1) - logits.max(axis=1))
