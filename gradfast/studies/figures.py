"""The figures of a study's report: ROC curves, score histograms, norms layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors.evaluation import Outcome
from gradfast.report.figures import layer_norms, roc_curves, score_histograms
from gradfast.report.page import FigureBlock
from gradfast.studies.methods import METHODS
from gradfast.studies.results import LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, Result, StudyResult

__all__ = ["study_figures"]

_POINTS = 400  # of a curve: more are not seen
_PANELS = 9


def study_figures(found: StudyResult) -> list[FigureBlock]:
    """Curves and histograms of the first model that was run, norms of all."""
    blocks = []
    shown = next((m.name for m in found.study.models if found.chosen(model=m.name)), None)
    if shown is not None:
        blocks += _scores(found, shown)
    blocks += [
        FigureBlock(
            f"{model}: gradient norms, layer by layer",
            f"{profile.what}, medians. A sample that the model does not know asks for another change of its weights; where a line"
            " leaves the blue band, that layer alone tells most of the set apart."
            + (" Corruptions at their highest level." if found.study.kind == "corruption" else ""),
            layer_norms(profile, f"layers-{number}"),
        )
        for number, (model, profile) in enumerate(found.norms)
    ]
    return blocks


def _scores(found: StudyResult, model: str) -> list[FigureBlock]:
    results = [r for r in found.chosen(model=model) if r.outcome is not None]
    seen = SAME_KIND if any(r.protocol == SAME_KIND for r in results) else SAME_SET
    level = found.study.levels[len(found.study.levels) // 2] if found.study.kind == "corruption" else 0
    at = [r for r in results if r.level == level]
    method = next(
        (m for m in found.study.methods if any((r.method, r.protocol) == (m, seen) for r in at)), None
    )
    if method is None:
        method, seen = at[0].method, at[0].protocol
    known = [r for r in at if (r.method, r.protocol) == (method, seen)][:_PANELS]
    blocks = [
        FigureBlock(
            f"{model}: scores",
            f"{METHODS[method].title}, tested samples of the first split{f', level {level}' if level else ''}. The less the two"
            " colours overlap, the better.",
            score_histograms([_drawn(r) for r in known]),
        )
    ]
    rivals = _rivals(at, method, seen)
    curves = []
    for r in known:
        own = [
            other for other in at if other.outside == r.outside and (other.method, other.protocol) in rivals
        ]
        own.sort(key=lambda other: rivals.index((other.method, other.protocol)))
        curves.append([_drawn(other) for other in own])
    names = "; ".join(METHODS[m].title + (", left out" if p == LEFT_OUT else "") for m, p in rivals)
    blocks.append(
        FigureBlock(
            f"{model}: ROC curves",
            f"{names}; tested samples of the first split, each with its area. Up and to the left is better.",
            roc_curves(curves),
        )
    )
    return blocks


def _rivals(at: Sequence[Result], method: str, seen: str) -> list[tuple[str, str]]:
    """The method, the same with the tested kind left out, and the best one that was given no outliers."""
    chosen = [(method, seen)]
    if any((r.method, r.protocol) == (method, LEFT_OUT) for r in at):
        chosen.append((method, LEFT_OUT))
    areas: dict[str, list[float]] = {}
    for r in at:
        if r.protocol == NO_OUTLIERS:
            areas.setdefault(r.method, []).append(r.auroc)
    if areas and seen != NO_OUTLIERS:
        chosen.append((max(areas, key=lambda name: float(np.mean(areas[name]))), NO_OUTLIERS))
    return chosen


def _drawn(result: Result) -> Outcome:
    """An outcome with few enough scores to draw."""
    outcome = result.outcome
    assert outcome is not None
    name = outcome.method + (", left out" if result.protocol == LEFT_OUT else "")
    return replace(
        outcome, method=name, out_set=result.outside, scores_in=_thinned(outcome.scores_in),
        scores_out=_thinned(outcome.scores_out),
    )  # fmt: skip


def _thinned(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(scores) <= _POINTS:
        return scores
    return np.asarray(np.quantile(scores, (np.arange(_POINTS) + 0.5) / _POINTS))
