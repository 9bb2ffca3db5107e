"""Any directory of results as one self-contained HTML page: `gradfast report`.

What is read: features (`gradfast extract`), tables of studies and of GradCON, tests of detectors, trainings, scores, benchmarks, other
CSV and JSON, Markdown and pictures. What is not read is named on the page. Everything in the directory is taken for text by a
stranger: names and contents are escaped, links are not followed, nothing is run or loaded.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from gradfast.errors import GradfastError, InputError
from gradfast.report import html
from gradfast.report.directory.cells import Cells
from gradfast.report.directory.columns import read_csv, read_parquet
from gradfast.report.directory.features import read_features
from gradfast.report.directory.pictures import PICTURES, picture
from gradfast.report.directory.records import json_section, load_json
from gradfast.report.directory.section import Picture, Section
from gradfast.report.directory.text import render_markdown
from gradfast.report.directory.walk import Found, walk
from gradfast.report.evaluation import SCORES

__all__ = ["DirectoryPage", "read_directory", "render_directory", "write_directory_page"]

_MOST = 200  # files that are read
_LARGEST_TEXT = 8 * 2**20
_READ = (".csv", ".json", ".md", ".parquet", *PICTURES)
# What a damaged or hostile file can do to its reader.
_DAMAGE = (
    GradfastError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    csv.Error,
    pa.ArrowException,
)


@dataclass
class DirectoryPage:
    """What was found.

    Attributes:
        name: of the directory.
        sections: in the order of the page.
        unread: files that could not be read, and why.
        others: names of files of kinds that are not read.
    """

    name: str
    sections: list[Section] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def write_directory_page(directory: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Reads a directory and writes its page, whole or not at all.

    Raises:
        InputError: no such directory, or nothing in it can be read.
        GradfastError: matplotlib or jinja2 is not installed.
    """
    return html.write_text(render_directory(read_directory(directory)), path)


def read_directory(directory: str | os.PathLike[str]) -> DirectoryPage:
    """All that can be shown of a directory; raises `InputError` as `write_directory_page`."""
    root = Path(directory)
    if not root.exists():
        raise InputError(f"directory: {root} does not exist; wanted a directory of results")
    if not root.is_dir():
        raise InputError(f"directory: {root} is a file; wanted the directory that it is in")
    page = DirectoryPage(root.resolve().name or "results")
    read: list[Found] = []
    for one in walk(root):
        if not one.path.is_dir() and one.suffix not in _READ:
            page.others.append(one.name)
        elif len(read) < _MOST:
            read.append(one)
        else:
            page.others.append(f"{one.name} (after the first {_MOST} files)")
    pictures = _Pictures({f.name: f for f in read if f.suffix in PICTURES and not f.path.is_dir()})
    cells = Cells()
    for number, one in enumerate(read):
        try:
            section = _section(one, f"s{number}", pictures, cells)
        except _DAMAGE as error:
            _require_plotting(error)
            page.unread.append((one.name, _why(error)))
            continue
        if section is not None:
            page.sections.append(section)
        elif one.suffix == ".parquet" and one.path.name != SCORES:
            page.others.append(one.name)
    page.sections = [*_joined(page.sections), *cells.sections()]
    page.sections += pictures.left(page.unread)
    if not page.sections:
        raise InputError(_nothing(root, page))
    return page


def _section(found: Found, key: str, pictures: _Pictures, cells: Cells) -> Section | None:
    """A section of one file; None where others show it, or nothing does."""
    if found.path.is_dir():
        return read_features(found, key)
    if found.suffix == ".csv":
        return read_csv(found, key)
    if found.suffix == ".json":
        stored = load_json(found)
        return None if cells.takes(stored) else json_section(found, stored, key)
    if found.suffix == ".parquet":
        return read_parquet(found, key)
    if found.suffix == ".md":
        if found.size > _LARGEST_TEXT:
            raise InputError(
                f"{found.size / 2**20:.0f} MiB; text of at most {_LARGEST_TEXT >> 20} MiB is shown"
            )
        text = found.path.read_text(encoding="utf-8")
        title, html = render_markdown(text, found.folder, pictures.take)
        return Section(title or found.path.stem, found.name, html=html)
    return None


def _joined(sections: Sequence[Section]) -> list[Section]:
    """A table and a text of one name are one section: the figures of the table, and the text, which has its rows."""
    texts = {_stem(s): s for s in sections if s.html}
    joined = []
    for section in sections:
        stem = _stem(section)
        if section.html and stem in texts:
            joined.append(section)
        elif not section.html and section.source.endswith((".csv", ".json")) and stem in texts:
            joined.append(_with_text(section, texts.pop(stem)))
        elif not section.html:
            joined.append(section)
    return joined


def _stem(section: Section) -> str:
    return section.source.rpartition(".")[0]


def _with_text(section: Section, text: Section) -> Section:
    source = f"{section.source}, {text.source}"
    both = replace(section, title=text.title, source=source, html=text.html)
    return replace(both, results=(), grids=()) if "<table" in text.html else both


class _Pictures:
    """The pictures of a directory; those that no text shows are shown by folder."""

    def __init__(self, found: dict[str, Found]) -> None:
        self._found = found
        self._taken: set[str] = set()

    def take(self, name: str) -> Picture | None:
        """The picture of a path below the directory, for a text."""
        try:
            shown = picture(self._found[name])
        except (KeyError, InputError, OSError):  # `left` tells of those that are there
            return None
        self._taken.add(name)
        return shown

    def left(self, unread: list[tuple[str, str]]) -> list[Section]:
        """A section for each folder that has some."""
        folders: dict[str, list[Picture]] = {}
        for name, found in self._found.items():
            if name in self._taken:
                continue
            try:
                folders.setdefault(found.folder, []).append(picture(found))
            except (InputError, OSError) as error:
                unread.append((name, _why(error)))
        return [Section("Pictures", folder, pictures=shown) for folder, shown in folders.items() if shown]


def _require_plotting(error: BaseException) -> None:
    """An error that no file is to blame for is raised on."""
    if isinstance(error, GradfastError) and isinstance(error.__cause__, ImportError):
        raise error


def _why(error: BaseException) -> str:
    text = str(error).splitlines()[0][:300] if str(error) else ""
    if isinstance(error, GradfastError):
        return text
    if isinstance(error, KeyError):
        return f"has no {error}, which a file of its kind has"
    return f"{type(error).__name__}: {text}".rstrip(": ")


def _nothing(root: Path, page: DirectoryPage) -> str:
    wanted = f"wanted features, or files that end in {', '.join(_READ)}"
    if page.unread:
        name, why = page.unread[0]
        return f"directory: {root} holds nothing that can be read ({name}: {why}); {wanted}"
    if page.others:
        return f"directory: {root} holds no results ({len(page.others)} other files, such as {page.others[0]}); {wanted}"
    return f"directory: {root} is empty; {wanted}"


def render_directory(page: DirectoryPage, most_others: int = 40) -> str:
    """The page's HTML."""
    return html.render("directory.html", page=page, others=_shortened(page.others, most_others))


def _shortened(names: Sequence[str], most: int) -> list[str]:
    return [*names[:most], *([f"and {len(names) - most:,} more"] if len(names) > most else [])]
