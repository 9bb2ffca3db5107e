"""Why a score is what it is: the share of each layer and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from gradfast.detectors.classifier import NormClassifier
from gradfast.detectors.inputs import FeatureSchema
from gradfast.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScoreExplanation", "explain_scores"]

_ROWS = 4096  # scored at a time by occlusion


@dataclass(frozen=True)
class ScoreExplanation:
    """The shares of layers and classes in the scores of n samples, compared with an average in-distribution sample.

    Attributes:
        values: [n, C, L] float64; positive speaks for "out".
        scores: [n].
        base: the score of the average in-distribution sample (in log-scaled, standardised features).
        exact: the values of a sample sum up to its score minus `base`, as for a linear head. Otherwise each value
            is by how much the score would fall were that feature alone the average's (occlusion), and shares
            that features have together are not in the sum.
        layers: the L names.
        classes: names of the C contrast rows.
        threshold: of the detector, or None.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    base: float
    exact: bool
    layers: tuple[str, ...]
    classes: tuple[str, ...]
    threshold: float | None = None

    def by_layer(self) -> NDArray[np.float64]:
        """[n, L]."""
        return np.asarray(self.values.sum(axis=1))

    def by_class(self) -> NDArray[np.float64]:
        """[n, C]."""
        return np.asarray(self.values.sum(axis=2))

    def top(self, k: int = 5, sample: int = 0) -> list[tuple[str, str, float]]:
        """The k largest shares in size of one sample: (layer, class, value)."""
        values = self.values[sample]
        order = np.argsort(-np.abs(values), axis=None, kind="stable")[:k]
        found = zip(*np.unravel_index(order, values.shape), strict=True)
        return [(self.layers[layer], self.classes[row], float(values[row, layer])) for row, layer in found]

    def plot(self, sample: int = 0, *, layers: int = 20) -> Figure:
        """A figure of one sample: shares by class and layer, and the sums of the `layers` layers with the largest.

        Raises:
            InputError: matplotlib is not installed (`pip install '.[report]' in gradfast's checkout`).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InputError(
                f"plot: needs matplotlib ({error}): pip install '.[report]' in gradfast's checkout"
            ) from error
        shares = self.by_layer()[sample]
        shown = np.sort(np.argsort(-np.abs(shares), kind="stable")[:layers])
        rows = len(self.classes)
        figure = Figure(figsize=(9, 1.6 + 0.22 * len(shown)), layout="constrained")
        ratios = [1.0, 0.12 * rows] if rows > 1 else [1.0]
        axes = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios, squeeze=False)[0]
        colours = np.where(shares[shown] > 0, "#d4620a", "#1f6fd0")
        axes[0].barh(range(len(shown)), shares[shown], color=colours)
        axes[0].axvline(0, color="#59636f", linewidth=0.8)
        axes[0].set_yticks(range(len(shown)), [self.layers[i] for i in shown], fontsize=7)
        axes[0].invert_yaxis()
        axes[0].set_xlabel("share in the score: left known, right out")
        if rows > 1:
            part = self.values[sample][:, shown].T
            limit = float(np.abs(part).max()) or 1.0
            image = axes[1].imshow(part, aspect="auto", cmap="PuOr_r", vmin=-limit, vmax=limit)
            axes[1].set_xticks(range(rows), self.classes, fontsize=7, rotation=90)
            axes[1].set_xlabel("contrast row")
            figure.colorbar(image, ax=axes[1], shrink=0.8)
        limit_text = "" if self.threshold is None else f", threshold {self.threshold:.3g}"
        how = "" if self.exact else ", by occlusion"
        figure.suptitle(
            f"score {self.scores[sample]:.3g}{limit_text}; average known sample {self.base:.3g}{how}",
            fontsize=10,
        )
        return figure

    def __repr__(self) -> str:
        n, rows, layers = self.values.shape
        return f"ScoreExplanation({n} samples x {rows} rows x {layers} layers, {'exact' if self.exact else 'occlusion'})"


def explain_scores(
    classifier: NormClassifier,
    X: NDArray[np.float64],
    schema: FeatureSchema,
    features: Any,
    threshold: float | None,
) -> ScoreExplanation:
    """Explains the decision function of a fitted classifier at features X [n, C * L], all finite.

    For logistic regression, a feature's value is its coefficient times its distance from the in-distribution mean, in
    scaled features. For other heads, occlusion: the score minus the score with that feature at that mean.
    """
    scaled, mean = classifier.scale(X), classifier.inside_
    scores = classifier.decide(scaled)
    exact = isinstance(classifier.head_, LogisticRegression)
    if exact:
        values = classifier.head_.coef_[0] * (scaled - mean)
    else:
        values = np.stack(
            [_occluded(classifier, row, score) for row, score in zip(scaled, scores, strict=True)]
        )
    shape = (len(X), schema.rows, schema.columns)
    return ScoreExplanation(
        values=values.reshape(shape),
        scores=scores,
        base=float(classifier.decide(mean[None])[0]),
        exact=exact,
        layers=schema.layers or tuple(f"feature {i}" for i in range(schema.columns)),
        classes=_row_names(features, schema),
        threshold=threshold,
    )


def _occluded(classifier: NormClassifier, row: NDArray[np.float64], score: float) -> NDArray[np.float64]:
    values = np.empty(len(row))
    for first in range(0, len(row), _ROWS):
        chosen = np.arange(first, min(first + _ROWS, len(row)))
        changed = np.tile(row, (len(chosen), 1))
        changed[np.arange(len(chosen)), chosen] = classifier.inside_[chosen]
        values[chosen] = score - classifier.decide(changed)
    return values


def _row_names(features: Any, schema: FeatureSchema) -> tuple[str, ...]:
    classes = getattr(features, "classes", None)
    if classes is not None and np.ndim(classes) == 1 and len(classes) == schema.rows:
        return tuple(f"class {int(c)}" for c in classes)
    if schema.rows == 1:
        return (str(schema.settings.get("contrast", "row 0")),)
    known: Sequence[Any] = schema.settings.get("classes") or range(schema.rows)
    one_hot = schema.settings.get("contrast") == "one-hot" and isinstance(known, (list, tuple, range))
    return tuple(f"{'class' if one_hot else 'row'} {i}" for i in (known if one_hot else range(schema.rows)))
