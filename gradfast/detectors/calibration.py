"""From scores to the probability that a sample is out of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from gradfast.errors import InputError, describe

__all__ = ["CALIBRATIONS", "Calibrator"]

CALIBRATIONS = ("platt", "isotonic")


class Calibrator:
    """A monotone map from scores to probabilities, fitted to scores of samples that the detector has not seen.

    "platt": a logistic curve on targets drawn in from 0 and 1 (Platt, 1999); "isotonic": the best monotone step
    function (Zadrozny & Elkan, KDD 2002), which wants more samples. Both by scikit-learn.
    """

    def __init__(self, method: str = "platt") -> None:
        if method not in CALIBRATIONS:
            raise InputError(
                f"calibration: got {describe(method)}, wanted {' or '.join(map(repr, CALIBRATIONS))}"
            )
        self.method = method
        self.x: NDArray[np.float64] = np.empty(0)  # platt: slope and intercept; isotonic: scores
        self.y: NDArray[np.float64] = np.empty(0)  # isotonic: probabilities at these scores

    def fit(self, inside: NDArray[np.float64], outside: NDArray[np.float64]) -> Calibrator:
        """Fits to finite scores [n_in] and [n_out]; raises `InputError` if either is empty."""
        if not len(inside) or not len(outside):
            raise InputError(
                f"scores: got {len(inside)} of in-distribution samples and {len(outside)} of outliers,"
                " wanted some of both kinds to calibrate on"
            )
        scores = np.concatenate([inside, outside])
        is_out = np.repeat([0, 1], [len(inside), len(outside)])
        if self.method == "isotonic":
            curve = IsotonicRegression(out_of_bounds="clip").fit(scores, is_out)
            self.x, self.y = np.asarray(curve.X_thresholds_), np.asarray(curve.y_thresholds_)
            return self
        # Platt's targets (n_out + 1) / (n_out + 2) and 1 / (n_in + 2): every sample in both classes, by shares.
        share = np.where(is_out, (len(outside) + 1) / (len(outside) + 2), 1 / (len(inside) + 2))
        centre, scale = scores.mean(), scores.std() or 1.0
        column = np.tile((scores - centre) / scale, 2)[:, None]
        curve = LogisticRegression(C=1e6, max_iter=1000)
        curve.fit(column, np.repeat([1, 0], len(scores)), sample_weight=np.concatenate([share, 1 - share]))
        slope = float(curve.coef_[0, 0]) / scale
        self.x = np.array([slope, float(curve.intercept_[0]) - slope * centre])
        return self

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of in and out, [n, 2]; NaN where a score is."""
        if self.method == "isotonic":
            out = np.interp(scores, self.x, self.y)
            out[np.isnan(scores)] = np.nan
        else:
            out = expit(self.x[0] * scores + self.x[1])
        return np.stack([1 - out, out], axis=1)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"method": self.method, "x": self.x.tolist(), "y": self.y.tolist()}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Calibrator:
        """The calibrator that `to_json` described."""
        calibrator = cls(saved["method"])
        calibrator.x, calibrator.y = np.asarray(saved["x"], float), np.asarray(saved["y"], float)
        return calibrator
