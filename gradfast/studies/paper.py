"""The figures of the tutorial's tables (ICIP 2023; J. Lee et al., IEEE Access 11, 2023), as printed there.

`paper.csv` holds them in percent, transcribed digit by digit. The slides name no network for the tables of
out-of-distribution and corruption detection, do not say which class is the positive of AUPR, and name no metric for
the adversarial and the corruption table; both are read as AUROC here, as in the paper.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["PaperFigure", "paper_figure", "paper_figures"]


@dataclass(frozen=True)
class PaperFigure:
    """One figure: `level` is 0 where there is none, `value` a share in [0, 1]."""

    study: str
    model: str
    inside: str
    outside: str
    level: int
    method: str
    metric: str
    value: float


@cache
def paper_figures() -> tuple[PaperFigure, ...]:
    """All of them."""
    text = resources.files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    return tuple(
        PaperFigure(row["study"], row["model"], row["inside"], row["outside"], int(row["level"] or 0), row["method"],
                    row["metric"], round(float(row["percent"]) / 100, 4))
        for row in csv.DictReader(text.splitlines())
    )  # fmt: skip


def paper_figure(
    study: str, *, model: str = "", inside: str, outside: str, level: int = 0, method: str, metric: str
) -> float | None:
    """One figure, a share; None where the tables have none."""
    wanted = (study, model, inside, outside, level, method, metric)
    if not method:
        return None
    for f in paper_figures():
        if (f.study, f.model, f.inside, f.outside, f.level, f.method, f.metric) == wanted:
            return f.value
    return None
