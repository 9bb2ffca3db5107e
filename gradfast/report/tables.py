"""Tables of detection results, described once and printed on a terminal or in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradfast.detectors.evaluation import Outcome
from gradfast.report.theme import OUTSIDE

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Cell", "Group", "ResultTable", "Row", "metric_table", "rich_table", "rich_tables"]

HEADINGS = {
    "auroc": "AUROC ↑",
    "aupr_out": "AUPR out ↑",
    "aupr_in": "AUPR in ↑",
    "detection_accuracy": "det. acc. ↑",
    "fpr95": "FPR95 ↓",
}
_LOWER_IS_BETTER = {"fpr95"}


@dataclass(frozen=True)
class Cell:
    """A figure, its spread ("" for none), whether it is the best of its group, and a paper's own figure ("" for none)."""

    text: str
    spread: str
    best: bool
    paper: str = ""


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
    """A titled table: rows grouped by outlier set, or by what `heading` says."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    heading: str = "outliers"


def metric_table(title: str, outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> ResultTable:
    """All metrics of all outcomes, grouped by outlier set; the best of each group is marked."""
    names = list(dict.fromkeys(outcome.out_set for outcome in outcomes))
    groups = [
        _group(name, OUTSIDE[i % len(OUTSIDE)], [outcome for outcome in outcomes if outcome.out_set == name])
        for i, name in enumerate(names)
    ]
    return ResultTable(title, tuple(notes), tuple(HEADINGS.values()), tuple(groups))


def _group(name: str, role: str, outcomes: Sequence[Outcome]) -> Group:
    best = {}
    for metric in HEADINGS:
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
            for metric in HEADINGS
        ]
        rows.append(Row(outcome.method, tuple(cells)))
    return Group(name, role, tuple(rows))


_COLUMNS = 6  # figures beside each other on a terminal of 80 columns


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
    drawn.add_column(escape(table.heading), overflow="fold")
    drawn.add_column("method", overflow="fold")
    for column in table.columns:
        heading = escape(column.rstrip(" ↑↓")).replace(" ", "\n").replace("-", "-\n")
        drawn.add_column(heading, justify="right", no_wrap=True)
    for group in table.groups:
        for i, row in enumerate(group.rows):
            cells = [_drawn_cell(cell) for cell in row.cells]
            drawn.add_row(escape(group.name) if i == 0 else "", escape(row.method), *cells)
        drawn.add_section()
    return drawn


def rich_tables(table: ResultTable) -> list[Table]:
    """A wide table as several for a terminal, without columns in which nothing was measured."""
    used = [
        i for i in range(len(table.columns))
        if any(row.cells[i].text != "–" for group in table.groups for row in group.rows)
    ]  # fmt: skip
    parts = []
    for first in range(0, len(used), _COLUMNS):
        chosen = used[first : first + _COLUMNS]
        groups = tuple(
            Group(
                g.name, g.role, tuple(Row(row.method, tuple(row.cells[i] for i in chosen)) for row in g.rows)
            )
            for g in table.groups
        )
        columns = tuple(table.columns[i] for i in chosen)
        title = table.title if not first else f"{table.title} (continued)"
        parts.append(rich_table(ResultTable(title, table.notes, columns, groups, table.heading)))
    return parts


def _drawn_cell(cell: Cell) -> str:
    text = f"[bold green]{cell.text}[/]" if cell.best else cell.text
    return f"{text}\n[dim]({cell.paper})[/]" if cell.paper else text
