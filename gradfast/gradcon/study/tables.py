"""The tables of a one-class study: a row per model and score, a column per normal class, the paper beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from gradfast.gradcon.study.cells import MODELS, REFRESHED, STANDARDISED

__all__ = ["PAPER", "Estimate", "as_csv", "class_table", "summarise"]

Result = Mapping[str, Any]
Row = tuple[str, str]

# The tutorial's table (ICIP 2023, slide 100; Kwon et al., ECCV 2020), AUROC on CIFAR-10 by class, and the average.
PAPER: dict[Row, tuple[float, ...]] = {
    ("CAE", "reconstruction"): (0.682, 0.353, 0.638, 0.587, 0.669, 0.613, 0.495, 0.498, 0.711, 0.390, 0.564),
    ("CAE+Grad", "reconstruction"): (0.659, 0.356, 0.640, 0.555, 0.695, 0.554, 0.549, 0.478, 0.695, 0.357, 0.554),
    ("CAE+Grad", "gradient"): (0.752, 0.619, 0.622, 0.580, 0.705, 0.591, 0.683, 0.576, 0.774, 0.709, 0.661),
    ("VAE", "reconstruction"): (0.553, 0.608, 0.437, 0.546, 0.393, 0.531, 0.489, 0.515, 0.552, 0.631, 0.526),
    ("VAE", "latent"): (0.634, 0.442, 0.640, 0.497, 0.743, 0.515, 0.745, 0.527, 0.674, 0.416, 0.583),
    ("VAE+Grad", "reconstruction"): (0.556, 0.606, 0.438, 0.548, 0.392, 0.543, 0.496, 0.518, 0.552, 0.631, 0.528),
    ("VAE+Grad", "latent"): (0.586, 0.396, 0.618, 0.476, 0.719, 0.474, 0.698, 0.537, 0.586, 0.413, 0.550),
    ("VAE+Grad", "gradient"): (0.736, 0.625, 0.591, 0.596, 0.707, 0.570, 0.740, 0.543, 0.738, 0.629, 0.647),
}  # fmt: skip


class Estimate(tuple[float, float]):
    """Mean over seeds, and half the width of the 95% t-interval over them (NaN for one seed)."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        n = len(values)
        half = float("nan")
        if n > 1:
            half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
        return cls((float(np.mean(values)), half))

    def __str__(self) -> str:
        mean, half = self
        return f"{mean:.3f}" if np.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Model and score of every row there is: the paper's rows first, then scores of our own, then baselines."""
    there = {(r["model"], score) for r in results for score in r["last"]}
    scores = ("reconstruction", "latent", "gradient", STANDARDISED, REFRESHED, "combined")
    ours = [(m, s) for m in MODELS for s in scores]
    ordered = [row for row in (*PAPER, *ours) if row in there]
    return list(dict.fromkeys([*ordered, *sorted(there)]))


def summarise(results: Sequence[Result], row: Row, label: int | None, at: str = "last") -> Estimate | None:
    """One figure of a table; ``label`` None averages over the classes, seed by seed. None where a cell is missing."""
    mine = [r for r in results if r["model"] == row[0] and row[1] in r.get(at, {})]
    labels = sorted({r["class"] for r in results})
    by_seed: dict[int, dict[int, float]] = {}
    for r in mine:
        by_seed.setdefault(r["seed"], {})[r["class"]] = r[at][row[1]]
    if label is not None:
        values = [areas[label] for areas in by_seed.values() if label in areas]
    else:
        values = [float(np.mean(list(a.values()))) for a in by_seed.values() if sorted(a) == labels]
    return Estimate.of(values) if values else None


def class_table(
    results: Sequence[Result], classes: Sequence[str], *, paper: bool = False, at: str = "last"
) -> str:
    """Markdown: AUROC by normal class and on average; with ``paper``, the paper's figure under each of its rows.

    A blank is a cell that was not run. An average is given where every class was run. The last column is the average at the best epoch (the
    lowest loss on held-out normal images).
    """
    labels = sorted({r["class"] for r in results})
    lines = [
        "| model | score | " + " | ".join(classes[i] for i in labels) + " | average | at the best epoch |",
        "|---|---|" + "---|" * (len(labels) + 2),
    ]
    for row in rows_of(results):
        mean, best = summarise(results, row, None, at), summarise(results, row, None, "best")
        cells = [summarise(results, row, label, at) for label in labels]
        shown = ["" if c is None else f"{c[0]:.3f}" for c in cells]
        lines.append(
            f"| {row[0]} | {row[1]} | {' | '.join(shown)} | {'' if mean is None else f'**{mean}**'} | {'' if best is None else best} |"
        )
        if paper and row in PAPER:
            figures = [f"{PAPER[row][i]:.3f}" for i in (*labels, -1)]
            lines.append(f"| | *paper* | {' | '.join(f'*{f}*' for f in figures)} | |")
    return "\n".join(lines)


def as_csv(results: Iterable[Result]) -> str:
    """Every AUROC: data, model, score, class, seed, epochs, at (last or best epoch), auroc."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["data", "model", "score", "class", "seed", "epochs", "at", "auroc"])
    for r in results:
        for at in ("last", "best"):
            for score, value in r.get(at, {}).items():
                writer.writerow(
                    [r["data"], r["model"], score, r["class"], r["seed"], r["epochs"], at, f"{value:.4f}"]
                )
    return file.getvalue()
