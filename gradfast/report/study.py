"""The report on a study: a verdict, tables beside the paper's figures, figures, and what is left blank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from gradfast.report import theme
from gradfast.report.page import FigureBlock, write_text
from gradfast.report.tables import ResultTable
from gradfast.version import __version__

if TYPE_CHECKING:
    from jinja2 import Template

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
    return write_text(render_study(page), path)


def render_study(page: StudyPage) -> str:
    """The page's HTML."""
    return _template().render(
        page=page,
        variables=theme.css_variables(),
        style=resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"),
        version=__version__,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(
        resources.files(__package__).joinpath("study.html").read_text(encoding="utf-8")
    )
