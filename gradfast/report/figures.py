"""The figures of a detection report. Each takes results and returns an inline SVG; samples in are blue
throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors.evaluation import NO_OUTLIERS, Outcome
from gradfast.detectors.metrics import roc_curve
from gradfast.report.svg import drawing, inline_svg
from gradfast.report.theme import INSIDE, METHODS, OUTSIDE, placeholder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NormProfile", "SetProfile", "layer_norms", "panel_grid", "roc_curves", "score_histograms"]

_COLUMNS = 3
_LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
_MOST_NAMED_LAYERS = 80


@dataclass(frozen=True)
class SetProfile:
    """Quartiles over the samples of one set of log10 of each layer's squared gradient norm, [3, L]."""

    name: str
    quartiles: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, values: NDArray[Any]) -> SetProfile:
        """From squared norms [n, C, L], averaged over the contrast rows; leaves out samples not finite."""
        mean = np.asarray(values, dtype=np.float64).mean(axis=1)
        mean = mean[np.isfinite(mean).all(axis=1)]
        smallest = np.finfo(np.float32).tiny  # a gradient that vanishes has no logarithm
        return cls(name, np.quantile(np.log10(np.maximum(mean, smallest)), [0.25, 0.5, 0.75], axis=0))


@dataclass(frozen=True)
class NormProfile:
    """What the norms of L layers look like in and out of distribution; `what` says which norms they are."""

    what: str
    layers: tuple[str, ...]
    inside: SetProfile
    outside: tuple[SetProfile, ...]

    @classmethod
    def of(
        cls, what: str, layers: Sequence[str], inside: str, sets: Mapping[str, NDArray[Any]]
    ) -> NormProfile:
        """From squared norms [n, C, L] of each set by name; `inside` names the in-distribution one."""
        profiles = {name: SetProfile.of(name, values) for name, values in sets.items()}
        known = profiles.pop(inside)
        return cls(what, tuple(layers), known, tuple(profiles.values()))


def score_histograms(outcomes: Sequence[Outcome], name: str = "histograms") -> str:
    """One panel per outlier set: the scores of samples in and out, on common bins."""
    with drawing():
        figure, panels = panel_grid(len(outcomes), height=2.3)
        for i, (axes, outcome) in enumerate(zip(panels, outcomes, strict=True)):
            both = np.concatenate([outcome.scores_in, outcome.scores_out])
            # The rare extreme score would squeeze all others into one bin: it is drawn in the outermost one.
            low, high = np.quantile(both[np.isfinite(both)], [0.002, 0.998])
            if low == high:
                low, high = low - 0.5, high + 0.5
            bins = np.linspace(low, high, 37).tolist()
            for scores, role, label in (
                (outcome.scores_in, INSIDE, "in"),
                (outcome.scores_out, OUTSIDE[i % len(OUTSIDE)], "out"),
            ):
                weights = np.full(len(scores), 100.0 / len(scores))
                colour = placeholder(role)
                clipped = np.clip(scores, low, high)
                axes.hist(clipped, bins, weights=weights, color=colour, alpha=0.28, linewidth=0)
                axes.hist(
                    clipped, bins, weights=weights, histtype="step", color=colour, linewidth=1.6, label=label
                )
            axes.set_title(outcome.out_set)
            axes.grid(visible=False, axis="x")
            axes.set_xlabel("score (higher = more out)")
            axes.legend(loc="upper center", ncols=2, handlelength=1.2, columnspacing=1.2)
            axes.set_ylim(top=axes.get_ylim()[1] * 1.22)
        _label_left(panels, "% of samples")
        names = ", ".join(outcome.out_set for outcome in outcomes)
        return _finish(figure, name, f"Score histograms of in-distribution samples and of {names}")


def roc_curves(by_set: Sequence[Sequence[Outcome]], name: str = "roc") -> str:
    """One panel per outlier set: outliers caught over in-samples rejected, for every method."""
    with drawing():
        figure, panels = panel_grid(len(by_set), height=2.9)
        for axes, outcomes in zip(panels, by_set, strict=True):
            axes.plot([0, 1], [0, 1], color=placeholder("grid"), linewidth=1.0)
            for i, outcome in enumerate(outcomes):
                # What learned nothing from outliers looks the same in every report.
                style = len(METHODS) - 1 if outcome.protocol == NO_OUTLIERS else i % (len(METHODS) - 1)
                curve = roc_curve(outcome.scores_in, outcome.scores_out)
                axes.plot(
                    1 - curve.tpr[::-1],
                    1 - curve.fpr[::-1],
                    color=placeholder(METHODS[style]),
                    linestyle=_LINES[style],
                    label=f"{outcome.method} {curve.auroc():.3f}",
                )
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=outcomes[0].out_set)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
            axes.set_xlabel("in-samples rejected, %")
            axes.legend(loc="lower right", handlelength=2.2)
        _label_left(panels, "outliers caught, %")
        return _finish(figure, name, "Receiver operating characteristic of every method, per outlier set")


def layer_norms(norms: NormProfile, name: str = "layers") -> str:
    """Each set's median squared norm per layer, and its ratio to the in-distribution median."""
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(10.6, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1.0, 0.8])
        layers, inside = norms.layers, norms.inside
        x = np.arange(len(layers))
        few = {"marker": "o", "markersize": 3.2} if len(layers) <= _MOST_NAMED_LAYERS else {}
        blue = placeholder(INSIDE)
        for axes, reference in ((upper, 0.0), (lower, inside.quartiles[1])):
            low, median, high = inside.quartiles - reference
            axes.fill_between(x, low, high, color=blue, alpha=0.24, linewidth=0, label="in, middle half")
            axes.plot(x, median, color=blue, label=f"{inside.name} (in)", linewidth=2.2, **few)
            for i, profile in enumerate(norms.outside):
                colour = placeholder(OUTSIDE[i % len(OUTSIDE)])
                axes.plot(x, profile.quartiles[1] - reference, color=colour, label=profile.name, **few)
            _logarithmic_ticks(axes)
        upper.set(title="Squared gradient norm of each parameter, median", ylabel="squared norm")
        lower.set(title="The same, relative to the in-distribution median", ylabel="ratio")
        step = int(np.ceil(len(layers) / _MOST_NAMED_LAYERS))
        size = 8.0 if len(layers) <= 40 else 6.4
        lower.set_xticks(x[::step], layers[::step], rotation=90, fontsize=size)
        lower.set_xlim(-0.6, len(layers) - 0.4)
        handles, labels = upper.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=1.6)
        return _finish(
            figure, name, "Squared gradient norm per layer, in-distribution against the outlier sets"
        )


def _logarithmic_ticks(axes: Axes) -> None:
    """Labels a y axis that holds log10 of its values; the fewer decades it spans, the more values in each."""
    low, high = axes.get_ylim()
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    if high - low < 2.5:
        steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1.3 else (1, 2, 5)
        ticks = {d + np.log10(step): f"{step * 10.0**d:g}" for d in decades for step in steps}
    else:
        ticks = {float(d): _power_of_ten(d) for d in decades[:: len(decades) // 8 + 1]}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(low, high)


def _power_of_ten(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def panel_grid(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, at most three beside each other, each `height` inches high."""
    from matplotlib.figure import Figure

    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    width = 10.6 if columns == _COLUMNS else 5.0 * columns
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False)
    for unused in grid.flat[panels:]:
        unused.remove()
    return figure, list(grid.flat[:panels])


def _label_left(panels: Sequence[Axes], label: str) -> None:
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel(label)


def _finish(figure: Figure, name: str, description: str) -> str:
    return inline_svg(figure, name, description)
