"""What a page about a directory is made of. Texts are plain, the template escapes them, unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradfast.report.page import FigureBlock
from gradfast.report.tables import ResultTable

__all__ = ["Grid", "Picture", "Section", "grid"]

_MOST_ROWS = 500


@dataclass(frozen=True)
class Grid:
    """A plain table: columns with their texts, and which of them hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file that was found; `uri` is a data URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Section:
    """What one file (or folder of features) holds.

    Attributes:
        title: of the section.
        source: the path in the directory.
        facts: names and values.
        notes: paragraphs.
        figures: inline SVG, made by `gradfast.report`.
        results: tables of detection results.
        grids: other tables.
        pictures: images.
        html: rendered Markdown; safe HTML.
    """

    title: str
    source: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    figures: Sequence[FigureBlock] = ()
    results: Sequence[ResultTable] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()
    html: str = ""


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> Grid:
    """A table of any values; of more than 500 rows, the first 500 and a note that says so."""
    shown = tuple(tuple(_text(value) for value in row) for row in rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        note = f"{note} The first {_MOST_ROWS} of {len(rows):,} rows.".strip()
    numeric = tuple(all(_is_number(row[i]) for row in shown) for i in range(len(columns)))
    return Grid(title, tuple(columns), shown, numeric, note)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").rstrip("%") or 0)
    except ValueError:
        return False
    return True
