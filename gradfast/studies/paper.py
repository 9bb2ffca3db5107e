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

from gradfast.studies.declaration import ModelEntry, Study
from gradfast.studies.methods import METHODS

__all__ = [
    "PAPER_ATTACKS",
    "PAPER_KINDS",
    "PaperFigure",
    "paper_auroc",
    "paper_figure",
    "paper_figures",
    "paper_level",
]


# As the tutorial's tables call the attacks and the corruptions.
PAPER_ATTACKS = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "cw": "C&W",
    "pgd": "PGD",
    "iterll": "ITERLL",
    "semantic": "SEMANTIC",
}
PAPER_KINDS = {
    "noise": "Noise", "lens_blur": "LensBlur", "gaussian_blur": "GaussianBlur", "dirty_lens": "DirtyLens",
    "exposure": "Exposure", "snow": "Snow", "haze": "Haze", "decolor": "Decolor",
}  # fmt: skip


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


def paper_auroc(study: Study, model: ModelEntry, outside: str, method: str) -> float | None:
    """The tutorial's AUROC for an outlier set or an attack; None where it has none."""
    title = METHODS[method].paper
    inside = study.sets[model.inside].paper
    if study.kind == "adversarial":
        return paper_figure(
            "adversarial", model=model.paper, inside=inside, outside=PAPER_ATTACKS.get(outside, ""), method=title,
            metric="auroc",
        )  # fmt: skip
    return paper_figure("ood", inside=inside, outside=study.sets[outside].paper, method=title, metric="auroc")


def paper_level(study: Study, model: ModelEntry, kind: str, level: int, method: str) -> float | None:
    """The tutorial's AUROC at a level; None where it has none."""
    inside = "CURE-TSR" if model.inside == "cure-tsr" else f"{study.sets[model.inside].paper}-C"
    return paper_figure(
        "corruption", inside=inside, outside=PAPER_KINDS.get(kind, ""), level=level, method=METHODS[method].paper,
        metric="auroc",
    )  # fmt: skip
