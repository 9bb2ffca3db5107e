"""How well a score tells in-distribution from out-of-distribution samples.

A score is higher for a more out-of-distribution sample. A threshold t *accepts* a sample when score <= t. As
in the papers that these metrics come from, the in-distribution samples are the positives of an operating
point:

    TPR(t) = share of in-distribution samples accepted
    FPR(t) = share of out-of-distribution samples accepted

Every metric is exact over all distinct thresholds, tied scores cross a threshold together, and nothing is
interpolated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradfast.errors import InputError

__all__ = [
    "DetectionMetrics",
    "RocCurve",
    "aupr_in",
    "aupr_out",
    "auroc",
    "detection_accuracy",
    "evaluate",
    "fpr_at_tpr",
    "roc_curve",
    "threshold_at_tpr",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RocCurve:
    """Operating points in order of ascending threshold, from "accept nothing" to "accept all".

    With M distinct scores: `thresholds` [M + 1] float64 (the first is -inf), `accepted_in` and `accepted_out`
    [M + 1] int64, the numbers of samples with score <= threshold.
    """

    thresholds: FloatArray
    accepted_in: NDArray[np.int64]
    accepted_out: NDArray[np.int64]

    @property
    def tpr(self) -> FloatArray:
        """[M + 1] share of in-distribution samples accepted."""
        return np.asarray(self.accepted_in / self.accepted_in[-1])

    @property
    def fpr(self) -> FloatArray:
        """[M + 1] share of out-of-distribution samples accepted."""
        return np.asarray(self.accepted_out / self.accepted_out[-1])

    def auroc(self) -> float:
        """Area under TPR over FPR: the chance that an outlier scores above an in-sample, a tie counts half."""
        return float(np.sum(np.diff(self.fpr) * (self.tpr[1:] + self.tpr[:-1]) / 2.0))

    def aupr_in(self) -> float:
        """Average precision with the in-distribution samples as the positives."""
        return _average_precision(self.accepted_in, self.accepted_out)

    def aupr_out(self) -> float:
        """Average precision with the outliers as the positives, retrieved from the highest score down."""
        rejected_in = self.accepted_in[-1] - self.accepted_in[::-1]
        rejected_out = self.accepted_out[-1] - self.accepted_out[::-1]
        return _average_precision(rejected_out, rejected_in)

    def detection_accuracy(self) -> float:
        """Largest (TPR + 1 - FPR) / 2 over all thresholds: accuracy when in and out are equally likely."""
        return float(np.max(self.tpr + 1.0 - self.fpr) / 2.0)

    def fpr_at_tpr(self, tpr: float = 0.95) -> float:
        """FPR at the lowest threshold whose TPR is at least `tpr`, a share in (0, 1]."""
        return float(self.fpr[_first_reaching(self.accepted_in, tpr)])


@dataclass(frozen=True)
class DetectionMetrics:
    """The metrics of the field's tables, each a share in [0, 1].

    Definitions: Hendrycks & Gimpel (ICLR 2017) for AUROC and AUPR; Liang, Li & Srikant (ODIN, ICLR 2018,
    section 4) for detection accuracy = 1 - detection error at equal priors, and for FPR at 95% TPR. AUPR,
    unlike the others, depends on how many samples of either kind were tested.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    detection_accuracy: float
    fpr95: float

    def as_dict(self) -> dict[str, float]:
        """Metric name to value, in the order of the fields."""
        return asdict(self)


def roc_curve(scores_in: ArrayLike, scores_out: ArrayLike) -> RocCurve:
    """All operating points of scores [n_in] and [n_out] (any real dtype; infinite scores are allowed).

    Raises `InputError` if either is empty, not one-dimensional, or holds NaN.
    """
    inside, outside = _checked(scores_in, "scores_in"), _checked(scores_out, "scores_out")
    distinct, rank = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    per_rank_in = np.bincount(rank[: len(inside)], minlength=len(distinct))
    per_rank_out = np.bincount(rank[len(inside) :], minlength=len(distinct))
    return RocCurve(
        thresholds=np.concatenate([[-np.inf], distinct]),
        accepted_in=np.concatenate([[0], np.cumsum(per_rank_in)]),
        accepted_out=np.concatenate([[0], np.cumsum(per_rank_out)]),
    )


def evaluate(scores_in: ArrayLike, scores_out: ArrayLike) -> DetectionMetrics:
    """All metrics of scores [n_in] and [n_out]; errors as for `roc_curve`."""
    curve = roc_curve(scores_in, scores_out)
    return DetectionMetrics(
        auroc=curve.auroc(),
        aupr_in=curve.aupr_in(),
        aupr_out=curve.aupr_out(),
        detection_accuracy=curve.detection_accuracy(),
        fpr95=curve.fpr_at_tpr(0.95),
    )


def auroc(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """See `RocCurve.auroc`."""
    return roc_curve(scores_in, scores_out).auroc()


def aupr_in(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """See `RocCurve.aupr_in`."""
    return roc_curve(scores_in, scores_out).aupr_in()


def aupr_out(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """See `RocCurve.aupr_out`."""
    return roc_curve(scores_in, scores_out).aupr_out()


def detection_accuracy(scores_in: ArrayLike, scores_out: ArrayLike) -> float:
    """See `RocCurve.detection_accuracy`."""
    return roc_curve(scores_in, scores_out).detection_accuracy()


def fpr_at_tpr(scores_in: ArrayLike, scores_out: ArrayLike, tpr: float = 0.95) -> float:
    """See `RocCurve.fpr_at_tpr`."""
    return roc_curve(scores_in, scores_out).fpr_at_tpr(tpr)


def threshold_at_tpr(scores_in: ArrayLike, tpr: float = 0.95) -> float:
    """The lowest of the scores [n_in] that, used as a threshold, accepts at least a share `tpr` of them."""
    distinct, counts = np.unique(_checked(scores_in, "scores_in"), return_counts=True)
    return float(distinct[_first_reaching(np.cumsum(counts), tpr)])


def _first_reaching(accepted: NDArray[np.int64], tpr: float) -> int:
    """Index of the first of the ascending counts that is at least a share `tpr` of the last."""
    if not 0.0 < tpr <= 1.0:
        raise InputError(f"tpr: got {tpr}, wanted a share in (0, 1]")
    # Compared as counts, with slack for the product's rounding: 0.95 * 20 must not ask for a 20th sample.
    return int(np.argmax(accepted >= tpr * accepted[-1] - 1e-9))


def _average_precision(true_positives: NDArray[np.int64], false_positives: NDArray[np.int64]) -> float:
    """Sum of precision times the step in recall, from counts at growing retrieval."""
    step = np.diff(true_positives) / true_positives[-1]
    found = true_positives[1:]
    return float(np.sum(step * found / (found + false_positives[1:])))


def _checked(scores: ArrayLike, argument: str) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(
            f"{argument}: got shape {list(values.shape)}, wanted one score per sample, shape [n]"
        )
    if values.size == 0:
        raise InputError(
            f"{argument}: got no scores, wanted some of both kinds, for a single one cannot be told apart"
        )
    missing = np.isnan(values)
    if missing.any():
        raise InputError(
            f"{argument}: {int(missing.sum())} of {values.size} scores are NaN (the first at {int(missing.argmax())});"
            " leave out flagged samples before evaluating"
        )
    return values
