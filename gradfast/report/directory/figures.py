"""Figures of what is found in a directory: a table in colours, curves, histograms. Each returns an inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradfast.report.figures import panel_grid
from gradfast.report.svg import drawing, inline_svg
from gradfast.report.theme import INSIDE, OUTSIDE, placeholder

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "heat_map", "histograms"]

Floats = NDArray[np.float64]
_COLOURS = (INSIDE, *OUTSIDE)
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Floats,
    name: str,
    description: str,
    *,
    width: float = 0.5,
    strength: Floats | None = None,
    digits: int = 3,
) -> str:
    """A table [R, C] in colours; NaN is left empty.

    ``strength`` [R, C] is from -1, full orange, to 1, full blue; by default the distance from 0.5 over ``width``.
    """
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.patches import Rectangle

    with drawing():
        shades = np.clip((values - 0.5) / width if strength is None else strength, -1, 1)
        longest = max(map(len, rows))
        figure = NewFigure(
            figsize=(1.0 + 0.075 * longest + 0.62 * len(columns), 0.7 + 0.27 * len(rows)),
            layout="constrained",
        )
        axes = figure.subplots()
        for i, j in np.ndindex(values.shape):
            if not np.isfinite(values[i, j]):
                continue
            shade = float(shades[i, j])
            colour = placeholder(INSIDE if shade > 0 else OUTSIDE[0])
            axes.add_patch(
                Rectangle((j, i), 0.96, 0.92, facecolor=colour, alpha=0.7 * abs(shade), linewidth=0)
            )
            axes.text(
                j + 0.48, i + 0.46, f"{values[i, j]:.{digits}f}", ha="center", va="center", fontsize=8.5
            )
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        rotation = 0 if max(map(len, columns)) <= 9 else 40
        axes.xaxis.tick_top()
        axes.set_xticks(
            np.arange(len(columns)) + 0.48, columns, rotation=rotation, ha="left" if rotation else "center"
        )
        axes.set_yticks(np.arange(len(rows)) + 0.46, rows)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return inline_svg(figure, name, description)


def curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    name: str,
    description: str,
    *,
    across: str,
    along: str = "",
) -> str:
    """Panels by title, in each named curves (x, y); one legend for all of them."""
    with drawing():
        figure, grid = panel_grid(len(panels), height=2.4)
        labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for label, (x, y) in lines.items():
                i = labels.index(label)
                axes.plot(
                    x,
                    y,
                    color=placeholder(_COLOURS[i % len(_COLOURS)]),
                    linestyle=_DASHES[i // len(_COLOURS) % len(_DASHES)],
                    marker="o",
                    markersize=2.8,
                    label=label,
                )
            axes.set_title(title)
            axes.set_xlabel(across)
            axes.set_ylabel(along)
            _whole_numbers(axes, [x for line in lines.values() for x in line[0]])
        if len(labels) > 1:
            _legend(figure, grid, labels)
        return inline_svg(figure, name, description)


def histograms(panels: Mapping[str, Mapping[str, Floats]], name: str, description: str) -> str:
    """Panels by title, in each the named values, on common bins; values that are not finite are left out."""
    with drawing():
        figure, grid = panel_grid(len(panels), height=2.3)
        for axes, (title, groups) in zip(grid, panels.items(), strict=True):
            finite = {label: v[np.isfinite(v)] for label, v in groups.items()}
            both = np.concatenate(list(finite.values()))
            # The rare extreme would squeeze all others into one bin: it is drawn in the outermost one.
            low, high = np.quantile(both, [0.002, 0.998]) if len(both) else (0.0, 1.0)
            if low == high:
                low, high = low - 0.5, high + 0.5
            bins = np.linspace(low, high, 37).tolist()
            for i, (label, values) in enumerate(finite.items()):
                colour = placeholder(_COLOURS[i % len(_COLOURS)])
                clipped = np.clip(values, low, high)
                axes.hist(clipped, bins, color=colour, alpha=0.28, linewidth=0)
                axes.hist(clipped, bins, histtype="step", color=colour, linewidth=1.6, label=label)
            axes.set_title(title)
            axes.grid(visible=False, axis="x")
            if len(finite) > 1:
                axes.legend(loc="best", handlelength=1.2)
        return inline_svg(figure, name, description)


def _legend(figure: Figure, grid: Sequence[Axes], labels: Sequence[str]) -> None:
    found: dict[str, Artist] = {}
    for axes in grid:
        handles, names = axes.get_legend_handles_labels()
        found |= {str(name): handle for name, handle in zip(names, handles, strict=True)}
    shown = [label for label in labels if label in found]  # matplotlib leaves out names that begin with "_"
    figure.legend(
        [found[label] for label in shown], shown, loc="outside upper center", ncols=4, handlelength=1.8
    )


def _whole_numbers(axes: Axes, x: Sequence[float]) -> None:
    """Few whole numbers, such as levels or epochs, are the ticks themselves."""
    different = sorted(set(x))
    if len(different) <= 10 and all(float(value).is_integer() for value in different):
        axes.set_xticks(different, [f"{value:g}" for value in different])
