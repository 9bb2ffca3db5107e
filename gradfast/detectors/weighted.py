"""Sources of several columns, weighed by a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors.inputs import column_matrix
from gradfast.detectors.learned import LearnedDetector
from gradfast.detectors.source_binding import SourceDetector

__all__ = ["SourceClassifier"]


class SourceClassifier(LearnedDetector, SourceDetector):
    """H on the columns of a source, of any sign: standardised, and weighed by a logistic regression.

    So Lee et al. (NeurIPS 2018) weigh the layers' Mahalanobis distances ("mahalanobis_fe", "mahalanobis_p_fe") and Ma et al.
    (ICLR 2018) the layers' LID ("lid"); with "penultimate" it is the gradient-free counterpart of Purview.

    Parameters: `source`: what `bind` reads; `log`: log-scale the columns, which must not be negative then; the others
    as in `Purview`.
    """

    def __init__(
        self,
        source: str = "mahalanobis_fe",
        head: Any = "logistic",
        *,
        eps: float = 1e-6,
        log: bool = False,
        tpr: float = 0.95,
        folds: int | None = 5,
        calibration: str = "platt",
        random_state: int | None = 0,
    ) -> None:
        self.source = source
        self.head = head
        self.eps = eps
        self.log = log
        self.tpr = tpr
        self.folds = folds
        self.calibration = calibration
        self.random_state = random_state

    def _matrix(self, features: Any, argument: str = "features") -> NDArray[np.float64]:
        return column_matrix(features, argument)
