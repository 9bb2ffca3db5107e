"""The results of a study as tables: one per model and protocol, never mixed, blank where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gradfast.report.tables import Cell, Group, ResultTable, Row
from gradfast.report.theme import OUTSIDE
from gradfast.studies.declaration import ModelEntry, Study
from gradfast.studies.methods import METHODS
from gradfast.studies.paper import paper_auroc, paper_level
from gradfast.studies.results import (
    CONTROL,
    LEFT_OUT,
    NO_OUTLIERS,
    SAME_KIND,
    SAME_SET,
    Result,
    StudyResult,
)
from gradfast.studies.statistics import Estimate, estimate

__all__ = ["PROTOCOLS", "control_table", "curve_table", "detail_tables", "figure_text", "summary_tables"]

BLANK = Cell("–", "", False)
_WHAT = {
    "ood": ("outlier set", "outliers of the tested set", "the other sets"),
    "ablation": ("outlier set", "outliers of the tested set", "the other sets"),
    "adversarial": ("attack", "images of the tested attack", "the other attacks"),
    "corruption": ("corruption", "the tested corruption at the tested level", "the other corruptions, all levels"),
}  # fmt: skip
PROTOCOLS = {
    SAME_SET: "seen: {seen}",
    SAME_KIND: "seen: the tested corruption, all levels",
    LEFT_OUT: "left out: seen {others} only",
}
_METRICS = {
    "auroc": "AUROC ↑", "aupr_out": "AUPR out ↑", "aupr_in": "AUPR in ↑", "detection_accuracy": "det. acc. ↑",
    "fpr95": "FPR95 ↓",
}  # fmt: skip
GIVEN, NOT_GIVEN = "given outliers", "given none"


def figure_text(value: float) -> str:
    """Three decimals; a dash where there is no figure."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def summary_tables(found: StudyResult) -> list[ResultTable]:
    """AUROC of every method (rows) on every set (columns); for corruptions, on every level, kind by kind."""
    make = _corruption_tables if found.study.kind == "corruption" else _set_tables
    return [table for model in found.study.models for table in make(found, model)]


def _set_tables(found: StudyResult, model: ModelEntry) -> Iterable[ResultTable]:
    study = found.study
    columns = study.attacks if study.kind == "adversarial" else study.outside.get(model.inside, ())
    results = found.chosen(model=model.name)
    if not results:
        if model.name in {blank.model for blank in found.blanks if "not on disk" in blank.why}:
            yield _blank_table(study, model, columns)
        return
    for protocol in (SAME_SET, LEFT_OUT):
        title = f"{model.name}: AUROC, {_titled(study, protocol)}"
        groups: list[Group] = []
        for name, wanted in ((GIVEN, protocol), (NOT_GIVEN, NO_OUTLIERS)):
            shown = [r for r in results if r.protocol == wanted]
            methods = [m for m in study.methods if any(r.method == m for r in shown)]
            cells = {
                m: [next((r for r in shown if r.method == m and r.outside == c), None) for c in columns]
                for m in methods
            }
            if methods:
                groups.append(_group(study, model, name, len(groups), columns, cells))
        if any(group.name == GIVEN for group in groups) or protocol == SAME_SET:
            yield ResultTable(
                title, (_note(study, protocol),), (*columns, "mean"), tuple(groups), "method is"
            )


def _group(
    study: Study,
    model: ModelEntry,
    name: str,
    number: int,
    columns: Sequence[str],
    cells: dict[str, list[Result | None]],
) -> Group:
    best = [_best([row[i] for row in cells.values()], "auroc") for i in range(len(columns))]
    rows = []
    for method, row in cells.items():
        shown = []
        for column, result, top in zip(columns, row, best, strict=True):
            if result is not None:
                shown.append(_cell(result, "auroc", top))
                continue
            figure = paper_auroc(study, model, column, method)
            shown.append(Cell("–", "", False, "" if figure is None else figure_text(figure)))
        rows.append(Row(METHODS[method].title, (*shown, _mean_cell([r for r in row if r is not None]))))
    return Group(name, OUTSIDE[number % len(OUTSIDE)], tuple(rows))


def _mean_cell(results: Sequence[Result]) -> Cell:
    """AUROC over all sets, with the interval of that mean over the splits, which all sets share."""
    splits = [[split.auroc for split in r.outcome.splits] for r in results if r.outcome is not None]
    if not splits:
        return BLANK
    return _estimate_cell(estimate([sum(areas) / len(areas) for areas in zip(*splits, strict=True)]))


def _corruption_tables(found: StudyResult, model: ModelEntry) -> Iterable[ResultTable]:
    study = found.study
    results = found.chosen(model=model.name)
    if not results:
        if model.name in {blank.model for blank in found.blanks if "not on disk" in blank.why}:
            yield _blank_corruption(study, model)
        return
    for protocol in (SAME_SET, SAME_KIND, LEFT_OUT):
        groups = []
        for number, kind in enumerate(study.corruptions):
            shown = [r for r in results if r.outside == kind and r.protocol in (protocol, NO_OUTLIERS)]
            rows = []
            for method in study.methods:
                own = [r for r in shown if r.method == method]
                if not own:
                    continue
                at = {r.level: r for r in own}
                cells = [
                    _cell(at.get(level), "auroc", _best([r for r in shown if r.level == level], "auroc"))
                    for level in study.levels
                ]
                order = at.get(0)
                cells.append(BLANK if order is None else _cell(order, "spearman", math.nan))
                rows.append(Row(METHODS[method].title, tuple(cells)))
            if rows:
                groups.append(Group(kind, OUTSIDE[number % len(OUTSIDE)], tuple(rows)))
        if groups:
            levels = tuple(f"level {level}" for level in study.levels)
            title = f"{model.name}: AUROC by level, {_titled(study, protocol)}"
            yield ResultTable(
                title, (_note(study, protocol),), (*levels, "rank corr."), tuple(groups), "corruption"
            )


def detail_tables(found: StudyResult) -> list[ResultTable]:
    """All metrics of every method, grouped by set, for studies of sets and attacks."""
    if found.study.kind == "corruption":
        return []
    tables = []
    for model in found.study.models:
        results = found.chosen(model=model.name)
        for protocol in (SAME_SET, LEFT_OUT):
            if not any(r.protocol == protocol for r in results):
                continue
            shown = [r for r in results if r.protocol in (protocol, NO_OUTLIERS)]
            title = f"{model.name}: all metrics, {_titled(found.study, protocol)}"
            tables.append(_metrics_table(title, shown, _WHAT[found.study.kind][0]))
    return tables


def control_table(found: StudyResult) -> ResultTable | None:
    """The rows that show what a detector reacts to besides; None if there are none."""
    shown = [r for r in found.results if r.protocol == CONTROL]
    if not shown:
        return None
    groups = []
    named = list(dict.fromkeys((r.outside, r.model) for r in shown))
    models = list(dict.fromkeys(r.model for r in shown))
    for number, outside in enumerate(dict.fromkeys(name for name, _ in named)):
        cells = {
            method: [
                next((r for r in shown if (r.outside, r.model, r.method) == (outside, model, method)), None)
                for model in models
            ]
            for method in found.study.methods
            if any(r.method == method for r in shown)
        }
        rows = [
            Row(METHODS[m].title, tuple(_cell(r, "auroc", math.nan) for r in row)) for m, row in cells.items()
        ]
        groups.append(Group(outside, OUTSIDE[number % len(OUTSIDE)], tuple(rows)))
    return ResultTable(
        "Controls: what else a detector reacts to, AUROC", (_CONTROL_NOTES[found.study.kind],), tuple(models), tuple(groups),
        "against clean, known images",
    )  # fmt: skip


_CONTROL_NOTES = {
    "ood": "Known images that were compressed once more, and an outlier set without the compression that all others have:"
    " whatever is told apart here is told apart by the codec. Methods that are given outliers are given these.",
    "adversarial": "Known images with random signs of FGSM's size added, which are as changed as FGSM's but not aimed at the"
    " model. The methods were fitted to all attacks and saw no such noise: far above 0.5, they detect that an image was"
    " changed; at 0.5, that it was attacked.",
    "corruption": "Images without any corruption that were compressed once less than those they are held against: what is told"
    " apart there is told apart by the codec alone. And every corruption at its lowest level without the compression that"
    " follows it in the tables above: what it gains over those is owed to the codec, and what it does not gain is too slight for"
    " the method with or without it.",
}  # fmt: skip
_CONTROL_NOTES["ablation"] = _CONTROL_NOTES["ood"]


def _metrics_table(title: str, shown: Sequence[Result], heading: str) -> ResultTable:
    groups = []
    for number, outside in enumerate(dict.fromkeys(r.outside for r in shown)):
        own = [r for r in shown if r.outside == outside]
        best = {metric: _best(own, metric) for metric in _METRICS}
        rows = tuple(
            Row(METHODS[r.method].title, tuple(_cell(r, metric, best[metric]) for metric in _METRICS))
            for r in own
        )
        groups.append(Group(outside, OUTSIDE[number % len(OUTSIDE)], rows))
    return ResultTable(title, (), tuple(_METRICS.values()), tuple(groups), heading)


def _blank_table(study: Study, model: ModelEntry, columns: Sequence[str]) -> ResultTable:
    figures = {
        method: [paper_auroc(study, model, column, method) for column in columns] for method in study.methods
    }
    rows = _blank_rows(figures, len(columns))
    group = Group("not measured", OUTSIDE[0], rows)
    return ResultTable(f"{model.name}: AUROC, left blank", (_BLANK_NOTE,), (*columns, "mean"), (group,), "")


def _blank_corruption(study: Study, model: ModelEntry) -> ResultTable:
    groups = []
    for number, kind in enumerate(study.corruptions):
        figures = {
            method: [paper_level(study, model, kind, level, method) for level in study.levels]
            for method in study.methods
        }
        rows = _blank_rows(figures, len(study.levels))
        groups.append(Group(kind, OUTSIDE[number % len(OUTSIDE)], rows))
    levels = tuple(f"level {level}" for level in study.levels)
    return ResultTable(
        f"{model.name}: AUROC by level, left blank",
        (_BLANK_NOTE,),
        (*levels, "rank corr."),
        tuple(groups),
        "corruption",
    )


_BLANK_NOTE = "The weights or the images are not on disk here; in brackets the tutorial's own figures."


def _blank_rows(figures: Mapping[str, Sequence[float | None]], columns: int) -> tuple[Row, ...]:
    """Rows of the methods that the tutorial has figures of; one for all if there are none."""
    rows = []
    for method, found in figures.items():
        if any(figure is not None for figure in found):
            cells = [Cell("–", "", False, "" if f is None else figure_text(f)) for f in found]
            rows.append(Row(METHODS[method].title, (*cells, BLANK)))
    return tuple(rows) or (Row("all methods", (BLANK,) * (columns + 1)),)


def _best(results: Iterable[Result | None], metric: str) -> float:
    means = [r.values[metric].mean for r in results if r is not None and metric in r.values]
    shown = [round(mean, 3) for mean in means if not math.isnan(mean)]
    if len(shown) < 2:
        return math.nan
    return min(shown) if metric == "fpr95" else max(shown)


def _cell(result: Result | None, metric: str, best: float) -> Cell:
    if result is None or metric not in result.values:
        return BLANK
    value = result.values[metric]
    paper = figure_text(result.paper[metric]) if metric in result.paper else ""
    return Cell(figure_text(value.mean), _spread(value), round(value.mean, 3) == best, paper)


def _spread(value: Estimate) -> str:
    return "" if math.isnan(value.half_width) else f"{value.half_width:.3f}".lstrip("0")


def _titled(study: Study, protocol: str) -> str:
    _, seen, others = _WHAT[study.kind]
    return PROTOCOLS[protocol].format(seen=seen, others=others)


def _note(study: Study, protocol: str) -> str:
    what, seen, others = _WHAT[study.kind]
    if protocol == SAME_SET:
        return (
            f"The paper's protocol: methods that are given outliers were fitted to one half of {seen} and are tested on the"
            " other. They are told what to look for: an upper end."
        )
    if protocol == SAME_KIND:
        return "One fit to all levels of a corruption, tested at each; the rank correlation is that of its score with the level."
    return (
        f"Leave one {what} out: methods that are given outliers were fitted to {others} and saw nothing of the tested one."
        " This is what to expect of something that nobody thought of."
    )


def curve_table(found: StudyResult) -> ResultTable | None:
    """Learning curves: AUROC by the number of images that H was fitted to; None if there are none."""
    if not found.curves:
        return None
    # The last size of a curve is all that it may be fitted to, which differs from set to set.
    sizes = sorted({size for curve in found.curves for size in curve.sizes[:-1]})
    groups = []
    for number, key in enumerate(dict.fromkeys((curve.model, curve.outside) for curve in found.curves)):
        rows = []
        for curve in found.curves:
            if (curve.model, curve.outside) != key:
                continue
            at = dict(zip(curve.sizes[:-1], curve.values[:-1], strict=True))
            cells = [_estimate_cell(at[size]) if size in at else BLANK for size in sizes]
            rows.append(Row(METHODS[curve.method].title, (*cells, _estimate_cell(curve.values[-1]))))
        groups.append(Group(", ".join(key), OUTSIDE[number % len(OUTSIDE)], tuple(rows)))
    note = (
        "AUROC by the number of images of either kind that the method was fitted to, with the tested kind seen; the same images are"
        " tested throughout. All: the half of the set, as in the tables above."
    )
    columns = (*(f"{size:,}" for size in sizes), "all")
    return ResultTable("Learning curves", (note,), columns, tuple(groups), "model, set")


def _estimate_cell(value: Estimate) -> Cell:
    return Cell(figure_text(value.mean), _spread(value), False)
