"""The report on a study: a verdict, tables beside the paper's figures, figures, and what is left blank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradfast.report import html
from gradfast.report.page import FigureBlock
from gradfast.report.tables import ResultTable

__all__ = ["StudyPage", "render_study", "write_study_page"]


@dataclass(frozen=True)
class StudyPage:
    """All that a study's report says; texts are plain, the template escapes them.

    Attributes:
        title: of the page.
        lead: the verdict: headings, each with its sentences.
        tables: shown in full.
        figures: below them.
        details: tables that are folded away.
        blanks: what is left blank, and why.
        reading: how to read the figures.
        facts: how they were made.
        command: that makes the page again.
    """

    title: str
    lead: Sequence[tuple[str, Sequence[str]]]
    tables: Sequence[ResultTable]
    figures: Sequence[FigureBlock] = ()
    details: Sequence[ResultTable] = ()
    blanks: Sequence[tuple[str, str]] = ()
    reading: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    command: str = ""


def write_study_page(page: StudyPage, path: str | os.PathLike[str]) -> Path:
    """Renders the page and writes it whole or not at all."""
    return html.write_text(render_study(page), path)


def render_study(page: StudyPage) -> str:
    """The page's HTML."""
    return html.render("study.html", page=page)
