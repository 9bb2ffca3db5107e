"""What a study found: one result per model, set, level, protocol and method; and what is left blank, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from gradfast.detectors.evaluation import LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome
from gradfast.detectors.metrics import DetectionMetrics
from gradfast.report.figures import NormProfile
from gradfast.studies.declaration import Profile, Study
from gradfast.studies.statistics import Estimate, estimate

__all__ = [
    "CONTROL",
    "LEFT_OUT",
    "METRICS",
    "NO_OUTLIERS",
    "SAME_KIND",
    "SAME_SET",
    "Blank",
    "Curve",
    "Result",
    "StudyResult",
    "metric_estimates",
]

SAME_KIND = "same kind"  # the tested corruption at all levels
CONTROL = "control"  # rows that show what a detector reacts to, apart from the table
METRICS = tuple(f.name for f in fields(DetectionMetrics))


@dataclass(frozen=True)
class Result:
    """One method on one set under one protocol.

    Attributes:
        model: name.
        inside: name of the in-distribution set.
        outside: name of the outlier set, the attack or the corruption.
        level: of the corruption; 0: none, or all.
        protocol: `SAME_SET`, `SAME_KIND`, `LEFT_OUT`, `NO_OUTLIERS` or `CONTROL`.
        method: name.
        values: mean and interval by metric; "spearman" too for corruptions.
        samples: fitted to in and out, tested in and out: of the first split.
        scoreless: tested samples without a score (NaN), left out.
        paper: the tutorial's figures by metric.
        outcome: scores of the first split, for figures; None for a rank correlation.
    """

    model: str
    inside: str
    outside: str
    level: int
    protocol: str
    method: str
    values: Mapping[str, Estimate]
    samples: tuple[int, int, int, int]
    scoreless: int = 0
    paper: Mapping[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None

    @property
    def auroc(self) -> float:
        """The mean AUROC; NaN if there is none."""
        found = self.values.get("auroc")
        return float("nan") if found is None else found.mean


@dataclass(frozen=True)
class Blank:
    """A row or cell that is left blank: `outside` or `method` is "" where it is all of them."""

    model: str
    inside: str
    outside: str
    method: str
    why: str


@dataclass(frozen=True)
class Curve:
    """AUROC by the number of images that H was fitted to."""

    model: str
    outside: str
    method: str
    sizes: tuple[int, ...]
    values: tuple[Estimate, ...]


@dataclass
class StudyResult:
    """All that a run found, growing model by model."""

    study: Study
    profile_name: str
    profile: Profile
    results: list[Result] = field(default_factory=list)
    blanks: list[Blank] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    norms: list[tuple[str, NormProfile]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def chosen(self, **wanted: object) -> list[Result]:
        """The results whose attributes are as wanted."""
        return [r for r in self.results if all(getattr(r, key) == value for key, value in wanted.items())]


def metric_estimates(outcome: Outcome) -> dict[str, Estimate]:
    """Every metric's mean and interval over the splits."""
    return {name: estimate([getattr(split, name) for split in outcome.splits]) for name in METRICS}
