"""Tables of detection results, described once and printed on a terminal or in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradfast.detectors.evaluation import Outcome
from gradfast.report.theme import OUTSIDE

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Cell", "Group", "ResultTable", "Row", "metric_table", "rich_table"]

_HEADINGS = {
    "auroc": "AUROC ↑",
    "aupr_out": "AUPR out ↑",
    "aupr_in": "AUPR in ↑",
    "detection_accuracy": "det. acc. ↑",
    "fpr95": "FPR95 ↓",
}
_LOWER_IS_BETTER = {"fpr95"}


@dataclass(frozen=True)
class Cell:
    """A figure, its standard deviation ("" for a single split), and whether it is the best of its group."""

    text: str
    spread: str
    best: bool


@dataclass(frozen=True)
class Row:
    """One method's figures."""

    method: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """The rows of one outlier set, and its colour."""

    name: str
    role: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ResultTable:
    """A titled table: rows grouped by outlier set."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]


def metric_table(title: str, outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> ResultTable:
    """All metrics of all outcomes, grouped by outlier set; the best of each group is marked."""
    names = list(dict.fromkeys(outcome.out_set for outcome in outcomes))
    groups = [
        _group(name, OUTSIDE[i % len(OUTSIDE)], [outcome for outcome in outcomes if outcome.out_set == name])
        for i, name in enumerate(names)
    ]
    return ResultTable(title, tuple(notes), tuple(_HEADINGS.values()), tuple(groups))


def _group(name: str, role: str, outcomes: Sequence[Outcome]) -> Group:
    best = {}
    for metric in _HEADINGS:
        shown = [round(getattr(outcome.mean, metric), 3) for outcome in outcomes]
        best[metric] = min(shown) if metric in _LOWER_IS_BETTER else max(shown)
    rows = []
    for outcome in outcomes:
        mean, spread = outcome.mean, outcome.spread
        cells = [
            Cell(
                text=f"{getattr(mean, metric):.3f}",
                spread=f"{getattr(spread, metric):.3f}".lstrip("0") if spread else "",
                best=len(outcomes) > 1 and round(getattr(mean, metric), 3) == best[metric],
            )
            for metric in _HEADINGS
        ]
        rows.append(Row(outcome.method, tuple(cells)))
    return Group(name, role, tuple(rows))


def rich_table(table: ResultTable) -> Table:
    """For a terminal: the best of each group in bold green, the spread left to the page."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(
        title=escape(table.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("outliers", overflow="fold")
    drawn.add_column("method", overflow="fold")
    for column in table.columns:
        drawn.add_column(column.rstrip(" ↑↓").replace(" ", "\n"), justify="right", no_wrap=True)
    for group in table.groups:
        for i, row in enumerate(group.rows):
            cells = [f"[bold green]{cell.text}[/]" if cell.best else cell.text for cell in row.cells]
            drawn.add_row(escape(group.name) if i == 0 else "", escape(row.method), *cells)
        drawn.add_section()
    return drawn
