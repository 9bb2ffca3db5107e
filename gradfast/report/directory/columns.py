"""Tables of a directory by what their columns say: a study's, GradCON's, a detector's test, a training, scores, or any other."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradfast.detectors.evaluation import LEFT_OUT
from gradfast.detectors.metrics import auroc
from gradfast.errors import InputError
from gradfast.report.detection import protocol_tables
from gradfast.report.directory.figures import curves, heat_map, histograms
from gradfast.report.directory.section import Grid, Section, grid
from gradfast.report.directory.walk import Found
from gradfast.report.evaluation import METRICS, SCORES, outcomes_of, scores_of
from gradfast.report.figures import roc_curves, score_histograms
from gradfast.report.page import FigureBlock
from gradfast.report.tables import HEADINGS, Cell, Group, ResultTable, Row
from gradfast.report.theme import OUTSIDE

__all__ = ["gradcon_section", "read_csv", "read_parquet"]

_LARGEST = 64 * 2**20
_DRAWN = 200_000  # scores that a histogram is made of
_PANELS = 9
_LINES = 6

Records = list[dict[str, str]]


def read_csv(found: Found, key: str) -> Section:
    """A section of a CSV file.

    Args:
        found: the file.
        key: keeps the ids of its figures apart.

    Raises:
        InputError: too large, or no table.
        ValueError, KeyError: values that its columns should not hold.
    """
    if found.size > _LARGEST:
        raise InputError(f"{found.size / 2**20:.0f} MiB; a table of at most {_LARGEST >> 20} MiB is read")
    with found.path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    if not rows or not rows[0]:
        raise InputError("an empty table")
    names = rows[0]
    if len(set(names)) < len(names) or any(len(row) != len(names) for row in rows[1:]):
        raise InputError("not a table: its rows differ in length, or its columns share a name")
    records = [dict(zip(names, row, strict=True)) for row in rows[1:]]
    for wanted, read in _KINDS:
        if wanted <= set(names) and records:
            return read(found, records, key)
    if records and {"index", "label"} < set(names):
        columns = {name: [r[name] for r in records] for name in names}
        if all(name in _NO_SCORES or _are_numbers(v) for name, v in columns.items()):
            return _scores(found, columns, key)
    return Section(found.path.stem, found.name, grids=[grid("", names, rows[1:])])


def read_parquet(found: Found, key: str) -> Section | None:
    """A section of a table of scores; None for another table, such as images."""
    if found.path.name == SCORES:
        return None  # evaluation.csv's section draws them
    schema = pq.read_schema(found.path)
    if not {"index", "label"} <= set(schema.names):
        return None
    wanted = [f.name for f in schema if pa.types.is_floating(f.type) or f.name in _NO_SCORES]
    table = pq.read_table(found.path, columns=wanted)
    columns: dict[str, Sequence[Any]] = {name: table[name].to_pylist() for name in wanted}
    if all(name in _NO_SCORES for name in wanted):
        return None
    return _scores(found, columns, key)


def _study(found: Found, records: Records, key: str) -> Section:
    """A study's figures: AUROC of every method on every set, or along the levels of a corruption."""
    measured = [r for r in records if r["metric"]]
    areas = [r for r in measured if r["metric"] == "auroc" and r["mean"]]
    blanks = sum(not r["metric"] for r in records)
    figures = []
    for i, (model, protocol) in enumerate(_different(areas, "model", "protocol")):
        mine = [r for r in areas if (r["model"], r["protocol"]) == (model, protocol)]
        draw = _along_levels if len({r["level"] for r in mine}) > 2 else _across_sets
        title = f"{model}: AUROC, {_PROTOCOLS.get(protocol, protocol)}"
        figures.append(FigureBlock(title, *draw(mine, f"{key}-{i}", title)))
    notes = [f"{blanks} cells of the study are blank."] if blanks else []
    name = f"Study: {', '.join(dict.fromkeys(r['study'] for r in records))}"
    return Section(name, found.name, notes=notes, figures=figures, results=_study_tables(measured))


_PROTOCOLS = {
    "same set": "outliers of the tested set seen",
    "same kind": "the tested corruption seen at all levels",
    "left out": "the tested kind never seen",
    "none": "no outliers seen",
    "control": "controls",
}


def _across_sets(areas: Records, name: str, title: str) -> tuple[str, str]:
    methods = [m for (m,) in _different(areas, "method")]
    sets = _different(areas, "inside", "outside", "level")
    several = len({inside for inside, _, _ in sets}) > 1
    shown = [
        outside + (f", {level}" if level else "") + (f" | {inside}" if several else "")
        for inside, outside, level in sets
    ]
    values = np.full((len(methods), len(sets)), np.nan)
    for r in areas:
        at = methods.index(r["method"]), sets.index((r["inside"], r["outside"], r["level"]))
        values[at] = float(r["mean"])
    said = "Blue is above 0.5, a coin toss; orange below. Means over the splits."
    return said, heat_map(methods, shown, values, name, title)


def _along_levels(areas: Records, name: str, title: str) -> tuple[str, str]:
    means: dict[str, list[float]] = {}
    for r in areas:
        means.setdefault(r["method"], []).append(float(r["mean"]))
    best = sorted(means, key=lambda m: -float(np.mean(means[m])))[:_LINES]
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for r in sorted(areas, key=lambda r: best.index(r["method"]) if r["method"] in best else 0):
        if r["method"] in best and r["level"]:
            x, y = panels.setdefault(r["outside"], {}).setdefault(r["method"], ([], []))
            x.append(float(r["level"]))
            y.append(float(r["mean"]))
    left = len(means) - len(best)
    said = "Means over the splits, by level." + (
        f" The best {_LINES} of {len(means)} methods." if left else ""
    )
    some = dict(list(panels.items())[:_PANELS])
    return said, curves(some, name, title, across="level", along="AUROC")


def _study_tables(measured: Records) -> list[ResultTable]:
    tables = []
    for model, protocol in _different(measured, "model", "protocol"):
        mine = [r for r in measured if (r["model"], r["protocol"]) == (model, protocol)]
        metrics = [m for (m,) in _different(mine, "metric")]
        groups = []
        for i, (inside, outside, level) in enumerate(_different(mine, "inside", "outside", "level")):
            of = [r for r in mine if (r["inside"], r["outside"], r["level"]) == (inside, outside, level)]
            rows = []
            for (method,) in _different(of, "method"):
                by_metric = {r["metric"]: r for r in of if r["method"] == method}
                rows.append(Row(method, tuple(_cell(by_metric.get(metric)) for metric in metrics)))
            name = f"{outside} against {inside}" + (f", level {level}" if level else "")
            groups.append(Group(name, OUTSIDE[i % len(OUTSIDE)], tuple(_marked(rows, metrics))))
        columns = tuple(HEADINGS.get(m, m) for m in metrics)
        title = f"{model}, {_PROTOCOLS.get(protocol, protocol)}"
        note = "After ±: half the width of the 95% interval over the splits."
        tables.append(ResultTable(title, (note,), columns, tuple(groups), "set"))
    return tables


def _cell(record: Mapping[str, str] | None) -> Cell:
    if record is None or not record["mean"]:
        return Cell("–", "", False)
    half, paper = record["half_width_95"], record.get("paper", "")
    spread = f"{float(half):.3f}".lstrip("0") if half else ""
    return Cell(f"{float(record['mean']):.3f}", spread, False, f"{float(paper):.3f}" if paper else "")


def _marked(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """The best cell of each column marked."""
    if len(rows) < 2:
        return list(rows)
    best = []
    for i, metric in enumerate(metrics):
        values = [float(row.cells[i].text) for row in rows if row.cells[i].text != "–"]
        best.append(f"{min(values) if metric == 'fpr95' else max(values):.3f}" if values else None)
    return [
        Row(row.method, tuple(replace(c, best=c.text == b) for c, b in zip(row.cells, best, strict=True)))
        for row in rows
    ]


def _gradcon(found: Found, records: Records, key: str) -> Section:
    return gradcon_section(found.name, records, key)


def gradcon_section(source: str, records: Records, key: str) -> Section:
    """AUROC by model, score and normal class, after the last epoch; one figure for each data set and number of epochs.

    Args:
        source: where the records are from.
        records: rows of `gradfast.gradcon.study.tables.as_csv`.
        key: keeps the ids of the figures apart.
    """
    from gradfast.gradcon.study.tables import rows_of, summarise

    results: dict[tuple[str, ...], dict[str, Any]] = {}
    for r in records:
        cell = (r["data"], r["model"], r["class"], r["seed"], r["epochs"])
        result = results.setdefault(
            cell,
            {"data": r["data"], "model": r["model"], "class": int(r["class"]), "seed": int(r["seed"]),
             "epochs": int(r["epochs"]), "last": {}},
        )  # fmt: skip
        result.setdefault(r["at"], {})[r["score"]] = float(r["auroc"])
    figures: list[FigureBlock] = []
    grids: list[Grid] = []
    trained = {(r["data"], r["epochs"]) for r in results.values() if r["epochs"]}
    for data, epochs in sorted(
        trained or {(r["data"], 0) for r in results.values()}, key=lambda e: (e[0], -e[1])
    ):
        mine = [r for r in results.values() if r["data"] == data and r["epochs"] in (0, epochs)]
        labels = sorted({r["class"] for r in mine})
        rows = rows_of(mine)
        estimates = [[summarise(mine, row, label) for label in (*labels, None)] for row in rows]
        values = np.array([[np.nan if e is None else e[0] for e in row] for row in estimates])
        seeds = len({r["seed"] for r in mine})
        title = f"{data}: AUROC by normal class, {epochs} epochs, {seeds} seed{'s' * (seeds > 1)}"
        columns = [*(f"class {label}" for label in labels), "average"]
        drawn = heat_map(
            [f"{m}, {s}" for m, s in rows], columns, values, f"{key}-{len(figures)}", title, width=0.3
        )
        said = "Blue is above 0.5, a coin toss; orange below. Means over the seeds, after the last epoch."
        figures.append(FigureBlock(title, said, drawn))
        cells = [["" if e is None else str(e) for e in row] for row in estimates]
        grids.append(grid(title, ["model", "score", *columns], [[*r, *c] for r, c in zip(rows, cells, strict=True)],
                          "After ±: half the 95% t-interval over the seeds."))  # fmt: skip
    names = ", ".join(dict.fromkeys(r["data"] for r in records))
    return Section(f"GradCON, one class normal: {names}", source, figures=figures, grids=grids)


def _evaluation(found: Found, records: Records, key: str) -> Section:
    """A detector's test: tables per protocol, and figures where the scores are there."""
    path = found.path.parent / SCORES
    scores = scores_of(path) if path.is_file() and not path.is_symlink() else {}
    outcomes = outcomes_of(records, scores)
    figures = []
    drawn = [o for o in outcomes if len(o.scores_in) and len(o.scores_out)]
    if drawn:
        sets = list(dict.fromkeys(o.out_set for o in drawn))[:_PANELS]
        by_set = [
            [o for o in drawn if o.out_set == name and o.protocol != LEFT_OUT][:_LINES] for name in sets
        ]
        by_set = [of for of in by_set if of]
        figures = [
            FigureBlock(f"Scores of {by_set[0][0].method}", "Tested samples of the first split. The less the two colours"
                        " overlap, the better.", score_histograms([of[0] for of in by_set], f"{key}-h")),
            FigureBlock("ROC curves", "Tested samples of the first split. Up and to the left is better.",
                        roc_curves(by_set, f"{key}-r")),
        ] if by_set else []  # fmt: skip
    return Section("A detector's test", found.name, results=protocol_tables(outcomes), figures=figures)


def _training(found: Found, records: Records, key: str) -> Section:
    """Every column over the epochs."""
    epochs = [float(r["epoch"]) for r in records]
    columns = [name for name in records[0] if name not in ("epoch", "seconds")][:_PANELS]
    # The panel's title says what its only curve is.
    panels = {name: {"": (epochs, [float(r[name] or "nan") for r in records])} for name in columns}
    drawn = curves(panels, f"{key}-t", f"{', '.join(columns)} by epoch", across="epoch")
    last = records[-1]
    return Section(
        "Training", found.name, facts=[(name, f"{float(v):.6g}" if v else "") for name, v in last.items()], notes=[f"{len(records)} epochs; the last one:"],
        figures=[FigureBlock("", "", drawn)],
    )  # fmt: skip


_NO_SCORES = ("index", "label", "prediction", "out", "anomalous", "flagged")


def _are_numbers(column: Sequence[str]) -> bool:
    try:
        _floats(column)
    except ValueError:
        return False
    return True


def _scores(found: Found, columns: Mapping[str, Sequence[Any]], key: str) -> Section:
    """Scores of samples, one a row: histograms and quantiles."""
    given = {name: v for name, v in columns.items() if name not in _NO_SCORES}
    values = {name: _floats(v) for name, v in given.items()}
    n = len(next(iter(values.values()), ()))
    outside = np.array([_is_true(v) for v in columns["out"]]) if "out" in columns else None
    facts = [("samples", f"{n:,}")]
    if "flagged" in columns:
        facts.append(("flagged", f"{sum(map(_is_true, columns['flagged'])):,}"))
    if outside is not None:
        facts.append(("out of distribution", f"{int(outside.sum()):,}"))
    # "out" is a detector's verdict, "anomalous" what is true of the sample.
    anomalous = np.array([_is_true(v) for v in columns["anomalous"]]) if "anomalous" in columns else None
    if anomalous is not None:
        facts.append(("anomalous", f"{int(anomalous.sum()):,}"))
    panels = {}
    for name, of in list(values.items())[:_PANELS]:
        groups = {"": of} if outside is None else {"in": of[~outside], "out": of[outside]}
        if anomalous is not None:
            groups = {"normal": of[~anomalous], "anomalous": of[anomalous]}
        panels[name] = {label: v[:_DRAWN] for label, v in groups.items() if np.isfinite(v).any()}
    panels = {name: groups for name, groups in panels.items() if groups}
    shares = (0.0, 0.05, 0.5, 0.95, 1.0)
    rows = [
        [name, *(float(q) for q in np.quantile(of[np.isfinite(of)], shares))]
        for name, of in values.items()
        if np.isfinite(of).any()
    ]
    figures = []
    if panels:
        said = "Samples by score; the rarest values are drawn in the outermost bins."
        figures = [
            FigureBlock("", said, histograms(panels, f"{key}-s", f"Histograms of {', '.join(panels)}"))
        ]
    headings = ["score", "least", "5%", "median", "95%", "largest"]
    if anomalous is not None:
        headings.append("AUROC")
        rows = [[*row, _auroc(values[str(row[0])], anomalous)] for row in rows]
    quantiles = grid("", headings, rows)
    return Section(f"Scores: {found.path.stem}", found.name, facts=facts, figures=figures, grids=[quantiles])


def _auroc(values: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> str:
    known = np.isfinite(values)
    inside, outside = values[known & ~anomalous], values[known & anomalous]
    return f"{auroc(inside, outside):.3f}" if len(inside) and len(outside) else ""


def _floats(column: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if v in ("", None) else float(v) for v in column], dtype=np.float64)


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _different(records: Records, *names: str) -> list[tuple[str, ...]]:
    """The different values of some columns, in order of appearance."""
    return list(dict.fromkeys(tuple(r[name] for name in names) for r in records))


_Reader = Callable[[Found, Records, str], Section]
_KINDS: tuple[tuple[set[str], _Reader], ...] = (
    (
        {
            "study",
            "model",
            "inside",
            "outside",
            "level",
            "protocol",
            "method",
            "metric",
            "mean",
            "half_width_95",
        },
        _study,
    ),
    ({"data", "model", "score", "class", "seed", "epochs", "at", "auroc"}, _gradcon),
    ({"method", "outliers", "protocol", "split", *METRICS}, _evaluation),
    ({"epoch", "loss"}, _training),
)
