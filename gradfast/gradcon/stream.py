"""Frames one batch after another, judged as they come by a threshold that keeps a rate of false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradfast.errors import InputError, describe
from gradfast.gradcon.grading import _named
from gradfast.gradcon.scores import GradConScorer

__all__ = ["Frames", "StreamScorer"]


@dataclass(frozen=True)
class Frames:
    """Some frames in order.

    Attributes:
        index: of the first in the stream.
        scores: float32 [n], higher is more anomalous.
        thresholds: float64 [n], that each was held against; infinite while the first ones are gathered.
        alarms: bool [n], score above threshold.
    """

    index: int
    scores: NDArray[np.float32]
    thresholds: NDArray[np.float64]
    alarms: NDArray[np.bool_]


class StreamScorer:
    """Scores a stream of frames against a running threshold whose long-run share of alarms is a given rate.

    The first ``warm_up`` frames (or those given to `calibrate`) count as normal and set the threshold: their conformal quantile, above
    which the next normal frame lies with a chance of at most ``rate``. From then on the threshold t tracks the quantile (Gibbs and
    Candes, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021, on the scores themselves as in Angelopoulos,
    Candes and Tibshirani, "Conformal PID Control for Time Series Prediction", NeurIPS 2023, section 2.1):

        t <- t + step * spread * (alarm - rate)

    One frame moves it by a bounded amount, however high its score; slow drift is followed; over any n frames, whatever they are, the
    share of alarms differs from the rate by at most (range of the scores / (step * spread) + 1) / n. An anomaly that lasts raises the
    threshold by step * spread a frame, so choose the step by how long one may last.

    Args:
        scorer: of the frames.
        rate: of false alarms among normal frames, in (0, 1).
        step: in units of the spread of the first frames (their standard deviation); zero keeps the first threshold.
        warm_up: frames that set the first threshold; None: 1 / rate of them, the fewest that can show the rate.
        score: which, as for `severity`.

    Raises:
        InputError: numbers out of range.
    """

    def __init__(
        self,
        scorer: GradConScorer,
        rate: float = 0.01,
        *,
        step: float = 0.02,
        warm_up: int | None = None,
        score: str = "gradient",
    ) -> None:
        if not 0 < rate < 1:
            raise InputError(f"rate: got {describe(rate)}; wanted a share in (0, 1), e.g. 0.01")
        fewest = int(np.ceil(1 / rate - 1e-9))
        if warm_up is not None and warm_up < fewest:
            raise InputError(
                f"warm_up: got {describe(warm_up)}; wanted at least {fewest}, for fewer cannot show a rate of {rate:g}"
            )
        if step < 0:
            raise InputError(f"step: got {describe(step)}; wanted zero or more, e.g. 0.02")
        self.scorer, self.rate, self.step, self.score = scorer, rate, step, score
        self.warm_up = fewest if warm_up is None else warm_up
        self.threshold = np.inf
        self._spread = 0.0
        self._first: list[float] = []
        self._seen = 0

    def calibrate(self, frames: Tensor) -> float:
        """Sets the threshold by normal frames [n, C, H, W], in place of the stream's first; returns it.

        Raises:
            InputError: fewer than 1 / rate - 1 of them.
        """
        scores = _named(self.scorer(frames), self.score)
        fewest = int(np.ceil(1 / self.rate - 1 - 1e-9))
        if len(scores) < fewest:
            raise InputError(
                f"frames: got {len(scores)}; wanted at least {fewest}, for fewer cannot show a rate of {self.rate:g}"
            )
        self._set(scores.astype(np.float64))
        return self.threshold

    def __call__(self, frames: Tensor) -> Frames:
        """Judges frames [n, C, H, W] in order, each by what came before it."""
        scores = _named(self.scorer(frames), self.score)
        thresholds = np.empty(len(scores))
        for i, score in enumerate(map(float, scores)):
            thresholds[i] = self.threshold
            if np.isfinite(self.threshold):
                self.threshold += self.step * self._spread * (float(score > self.threshold) - self.rate)
            else:
                self._first.append(score)
                if len(self._first) >= self.warm_up:
                    self._set(np.asarray(self._first))
        found = Frames(self._seen, scores, thresholds, scores > thresholds)
        self._seen += len(scores)
        return found

    def run(self, batches: Iterable[Tensor]) -> Iterator[Frames]:
        """Judges batch after batch as they come; none is kept."""
        return map(self, batches)

    def _set(self, normal: NDArray[np.float64]) -> None:
        self.threshold = conformal_threshold(normal, self.rate)
        self._spread = float(normal.std())
        self._first = []


def conformal_threshold(normal: NDArray[np.float64], rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest of n scores; infinite where n is too small for the rate."""
    rank = int(np.ceil((len(normal) + 1) * (1 - rate) - 1e-9))
    return float(np.sort(normal)[rank - 1]) if rank <= len(normal) else np.inf
