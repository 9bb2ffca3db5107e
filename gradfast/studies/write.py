"""A study's results as CSV (every figure), Markdown and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from gradfast.report.html import write_text
from gradfast.report.study import StudyPage, write_study_page
from gradfast.report.tables import Cell, ResultTable
from gradfast.studies.figures import study_figures
from gradfast.studies.methods import METHODS
from gradfast.studies.results import StudyResult
from gradfast.studies.tables import control_table, curve_table, detail_tables, summary_tables
from gradfast.studies.verdict import verdict

__all__ = ["write_results"]

_READING = (
    "A score is higher for a sample that is further out. AUROC: the chance that an outlier scores above a known sample (0.5 is a"
    " coin toss, 1 is perfect). AUPR: average precision with the outliers (out) or the known samples (in) as the positives; it"
    " depends on how many of each were tested. Detection accuracy: the best (TPR + 1 - FPR) / 2 over all thresholds. FPR95:"
    " the share of outliers let through by the lowest threshold that accepts 95% of the known samples; lower is better.",
    "Figures are means over random splits of each set into two halves, one to fit on and one to test on; images, not samples, are"
    " split, so that no version of a tested image was fitted to. After ±: half the width of the 95% corrected resampled"
    " t-interval (Nadeau & Bengio 2003). The splits share images and are not independent, which the plain t-interval overlooks;"
    " it covers the draw of images, not another training of the network.",
    "'Given outliers': the method was fitted to known outliers, by which protocol the table's title says. 'Given none': it never"
    " saw any, in either table. Nothing was tuned for this run. H's few settings are gradfast's defaults, which were once chosen"
    " on samples of CIFAR-10 and Tiny ImageNet; ODIN's and the Mahalanobis detector's step are fixed defaults where the row does"
    " not say that it was chosen; their papers tune them on outliers, which favours the papers' figures of these two.",
    "'paper': the tutorial's figure for the same row (ICIP 2023; Lee et al., IEEE Access 2023), with other weights, more images"
    " and without JPEG; outliers that were given were of the tested kind, also where it stands beside ours with that kind left"
    " out. The slides name no network but for attacks, no side of AUPR (it is put beside AUPR out), and no metric for attacks"
    " and corruptions (read as AUROC).",
)  # fmt: skip


def write_results(found: StudyResult, out: Path, command: str = "") -> list[Path]:
    """Writes NAME.csv, NAME.md and NAME.html to a directory, each whole or not at all."""
    name, title = found.study.name, found.study.title
    tables, details = _tables(found), detail_tables(found)
    lead = [(answer.model, answer.sentences) for answer in verdict(found)]
    blanks = [(_what(b.model, b.outside, b.method), b.why) for b in found.blanks]
    facts = list(dict.fromkeys(found.facts))
    facts += [(METHODS[m].title, METHODS[m].about) for m in found.study.methods if METHODS[m].about]
    page = StudyPage(title, lead, tables, study_figures(found), details, blanks, _READING, facts, command)
    return [
        write_text(_csv(found), out / f"{name}.csv"),
        write_text(_markdown(title, lead, [*tables, *details], blanks, facts, command), out / f"{name}.md"),
        write_study_page(page, out / f"{name}.html"),
    ]


def _tables(found: StudyResult) -> list[ResultTable]:
    others = (control_table(found), curve_table(found))
    return [*summary_tables(found), *(table for table in others if table is not None)]


def _what(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


_HEADER = ("study", "model", "inside", "outside", "level", "protocol", "method", "metric", "mean", "half_width_95", "splits",
           "fit_in", "fit_out", "test_in", "test_out", "without_score", "paper")  # fmt: skip


def _csv(found: StudyResult) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADER)
    for r in found.results:
        for metric, value in r.values.items():
            half = "" if math.isnan(value.half_width) else f"{value.half_width:.6f}"
            mean = "" if math.isnan(value.mean) else f"{value.mean:.6f}"
            writer.writerow([found.study.name, r.model, r.inside, r.outside, r.level or "", r.protocol, r.method, metric, mean,
                             half, found.profile.splits, *r.samples, r.scoreless, r.paper.get(metric, "")])  # fmt: skip
    for blank in found.blanks:
        row = [found.study.name, blank.model, blank.inside, blank.outside, "", "", blank.method]
        writer.writerow(row + [""] * (len(_HEADER) - len(row)))
    return file.getvalue()


def _markdown(
    title: str,
    lead: Sequence[tuple[str, Sequence[str]]],
    tables: Sequence[ResultTable],
    blanks: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    command: str,
) -> str:
    lines = [f"# {_plain(title)}", ""]
    if command:
        lines += [f"    {command}", ""]
    for heading, sentences in lead:
        lines += [f"**{_plain(heading)}**", ""] if heading else []
        lines += [*(f"- {_plain(sentence)}" for sentence in sentences), ""]
    for table in tables:
        lines += [
            f"## {_plain(table.title)}",
            "",
            *(line for note in table.notes for line in (_plain(note), "")),
        ]
        lines += _rows(table)
    if blanks:
        lines += ["## Left blank", "", *(f"- {_plain(what)}: {_plain(why)}" for what, why in blanks), ""]
    lines += [
        "## How to read this",
        "",
        *(line for paragraph in _READING for line in (_plain(paragraph), "")),
    ]
    lines += [*(f"- {_plain(what)}: {_plain(said)}" for what, said in facts), ""]
    return "\n".join(lines)


def _rows(table: ResultTable) -> list[str]:
    lines = [f"| {_plain(table.heading)} | method | " + " | ".join(map(_plain, table.columns)) + " |",
             "|---|---|" + "---|" * len(table.columns)]  # fmt: skip
    for group in table.groups:
        for i, row in enumerate(group.rows):
            cells = " | ".join(map(_shown, row.cells))
            lines.append(f"| {_plain(group.name) if i == 0 else ''} | {_plain(row.method)} | {cells} |")
    return [*lines, ""]


def _shown(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    text += f" ± {cell.spread}" if cell.spread else ""
    return f"{text} (paper {cell.paper})" if cell.paper else text


def _plain(text: str) -> str:
    """A text that Markdown and the HTML in it take as it is."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|" else c for c in " ".join(escaped.split()))
