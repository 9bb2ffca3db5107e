"""Severity: how far an image is from what the model learned as normal, as an ordering, and pseudo-labels made of it.

Kokilepersaud, Corona, Prabhushankar, AlRegib, Wykoff, "Clinically Labeled Contrastive Learning for OCT Biomarker Classification"
(IEEE JBHI 2023) and Prabhushankar et al., ICIP 2023 tutorial: an autoencoder of healthy scans gives each other scan a gradient score;
scans whose scores fall between the same quantiles are positives of each other in supervised contrastive learning (Khosla et al.,
NeurIPS 2020), as if they shared a grade of disease.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gradfast.errors import InputError, describe
from gradfast.gradcon.scores import GradConScorer, Scores

__all__ = ["SeverityLabels", "rank_correlation", "severity", "supervised_contrastive_loss"]

_ABSENT = {
    "latent": " (the model has no latent)",
    "standardised": " (the scorer knows no normal images: GradConScorer.standardised)",
}


def severity(scorer: GradConScorer, x: Tensor, score: str = "gradient") -> NDArray[np.float32]:
    """Severity of images [B, C, H, W], [B]: one of the scores in `gradfast.gradcon.scores.SCORES`, higher for further from normal.

    It orders; its unit means nothing.

    Raises:
        InputError: an unknown score, or one that the model does not have.
    """
    found: Scores = scorer(x)
    return _named(found, score)


class SeverityLabels:
    """Grades 0 to bins - 1 by the quantiles of the severities of a reference set; each grade holds as many of them, but equal ones share a grade.

    Args:
        severities: [n], of the set whose quantiles count.
        bins: number of grades, from 2 to n.

    Raises:
        InputError: too few severities, some not finite, or so many equal ones that a grade would be empty.
    """

    def __init__(self, severities: ArrayLike, bins: int) -> None:
        values = np.asarray(severities, dtype=np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise InputError(
                f"severities: got shape {list(values.shape)}; wanted finite numbers of shape [n]"
            )
        if not 2 <= bins <= len(values):
            raise InputError(
                f"bins: got {describe(bins)} for {len(values)} images; wanted 2 to {len(values)}"
            )
        self.edges: NDArray[np.float64] = np.quantile(values, np.arange(1, bins) / bins)
        self.bins = bins
        if len(np.unique(self(values))) < bins:
            raise InputError(
                f"bins: got {bins}; the severities have too few distinct values for so many grades: one would be empty"
            )

    def __call__(self, severities: ArrayLike) -> NDArray[np.int64]:
        """The grade of each severity, [n]."""
        return np.searchsorted(self.edges, np.asarray(severities, dtype=np.float64), side="right")


def supervised_contrastive_loss(features: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """The loss of Khosla et al. (NeurIPS 2020), equation 2: features of one label are drawn together.

    Args:
        features: floating [n, D]; they are scaled to length one. Several views of an image are so many rows.
        labels: int64 [n], e.g. grades of `SeverityLabels`.
        temperature: of the softmax, positive.

    Returns:
        The mean over the rows that have another row of their label; zero (with a graph) if there is none.

    Raises:
        InputError: shapes that do not fit, or a temperature that is not positive.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1] or len(features) < 2:
        raise InputError(
            f"features: got {describe(features)} with labels {list(labels.shape)}; wanted [n, D] and [n], n from 2"
        )
    if temperature <= 0:
        raise InputError(f"temperature: got {describe(temperature)}; wanted a positive number")
    unit = torch.nn.functional.normalize(features, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.t() / temperature).masked_fill(itself, -torch.inf)
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels[None]) & ~itself
    count = positive.sum(1)
    of_row = -log_share.masked_fill(~positive, 0).sum(1) / count.clamp_min(1)
    return (of_row * (count > 0)).sum() / (count > 0).sum().clamp_min(1)


def rank_correlation(
    scorer: GradConScorer,
    x: Tensor,
    corrupt: Callable[[Tensor, int], Tensor],
    levels: tuple[int, ...] = (1, 2, 3, 4, 5),
    score: str = "gradient",
) -> float:
    """Spearman's correlation, in [-1, 1], of the severities of corrupted images with the levels of corruption.

    ``corrupt`` takes images [B, C, H, W] in [0, 1] and a level.
    """
    from scipy.stats import spearmanr

    found = [severity(scorer, corrupt(x, level), score) for level in levels]
    return float(spearmanr(np.concatenate(found), np.repeat(levels, len(x))).statistic)


def _named(found: Scores, score: str) -> NDArray[np.float32]:
    there = found.by_name()
    if score not in there:
        raise InputError(
            f"score: got {describe(score)}; wanted one of {', '.join(there)}{_ABSENT.get(score, '')}"
        )
    return there[score]
