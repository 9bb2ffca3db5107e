"""Means over splits with 95% intervals, and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

__all__ = ["Estimate", "estimate", "spearman"]


@dataclass(frozen=True)
class Estimate:
    """A mean over splits, and half the width of its 95% interval; NaN for a single split."""

    mean: float
    half_width: float


def estimate(values: Sequence[float], test_share: float = 0.5) -> Estimate:
    """Mean and 95% interval of one figure over k random splits of the same images.

    The splits share images, so they are not independent, and the plain t-interval is too narrow. This is the corrected
    resampled t-interval (Nadeau & Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003):

        mean +- t(0.975, k - 1) * s * sqrt(1 / k + n_test / n_fit)

    with s the standard deviation over the splits. It covers the draw of the images, not that of the model's weights.

    Args:
        values: k figures.
        test_share: share of the images that is tested; the rest is fitted to.
    """
    k = len(values)
    mean = float(np.mean(values))
    if k < 2:
        return Estimate(mean, float("nan"))
    correction = 1 / k + test_share / (1 - test_share)
    s = float(np.std(values, ddof=1))
    return Estimate(mean, float(stats.t.ppf(0.975, k - 1)) * s * correction**0.5)


def spearman(scores: ArrayLike, levels: ArrayLike) -> float:
    """Spearman's rank correlation of scores [n] with levels [n], ties averaged; NaN if either is constant."""
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)
