"""Markdown as HTML that is safe whoever wrote it: no raw HTML, no address but http(s), pictures of the directory only."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from gradfast.report.directory.section import Picture

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["render_markdown"]

_FOLDED = 40  # rows of a table from which on it is folded away


def render_markdown(text: str, folder: str, shown: Callable[[str], Picture | None]) -> tuple[str, str]:
    """The title (the first heading of level 1, "" for none) and the rest as HTML.

    Args:
        text: Markdown with tables.
        folder: of the file, below the directory, to find its pictures.
        shown: gives the picture of a path below the directory, None where there is none.
    """
    from markdown_it import MarkdownIt

    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
    title, tokens = _title(tokens)
    return title, _Renderer(folder, shown).render(tokens)


def _title(tokens: Sequence[Token]) -> tuple[str, list[Token]]:
    if len(tokens) > 2 and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        return _plain(tokens[1]), list(tokens[3:])
    return "", list(tokens)


def _plain(token: Token) -> str:
    return "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))


class _Renderer:
    def __init__(self, folder: str, shown: Callable[[str], Picture | None]) -> None:
        from markdown_it.renderer import RendererHTML

        self._folder, self._shown = folder, shown
        self._html = RendererHTML()
        rules: dict[str, Any] = {
            "image": self._image,
            "link_open": self._link,
            "link_close": self._link,
            "table_open": self._table,
            "table_close": lambda *_: "</table></div>",
            "heading_open": self._heading,
            "heading_close": self._heading,
        }
        self._html.rules |= rules
        self._open: list[bool] = []  # of the links around, which have an address

    def render(self, tokens: list[Token]) -> str:
        from markdown_it.utils import OptionsDict

        options: Any = {
            "html": False,
            "xhtmlOut": False,
            "breaks": False,
            "langPrefix": "",
            "highlight": None,
        }
        parts, last = [], 0
        for first, end in _long_tables(tokens):
            rows = sum(token.type == "tr_open" for token in tokens[first:end]) - 1
            parts.append(self._html.render(tokens[last:first], OptionsDict(options), {}))
            table = self._html.render(tokens[first:end], OptionsDict(options), {})
            parts.append(f"<details><summary>{rows} rows</summary>{table}</details>")
            last = end
        parts.append(self._html.render(tokens[last:], OptionsDict(options), {}))
        return "".join(parts)

    def _heading(self, tokens: Sequence[Token], i: int, *_: Any) -> str:
        level = min(int(tokens[i].tag[1]) + 1, 6)  # the page and its sections have the first two
        return f"<h{level}>" if tokens[i].nesting == 1 else f"</h{level}>\n"

    def _table(self, *_: Any) -> str:
        return '<div class="wide"><table>'

    def _link(self, tokens: Sequence[Token], i: int, *_: Any) -> str:
        if tokens[i].nesting == -1:
            return "</a>" if self._open.pop() else ""
        address = str(tokens[i].attrGet("href") or "")
        self._open.append(address.startswith(("https://", "http://")))
        return f'<a rel="noreferrer" href="{escape(address)}">' if self._open[-1] else ""

    def _image(self, tokens: Sequence[Token], i: int, *_: Any) -> str:
        about = escape(tokens[i].content)
        address = str(tokens[i].attrGet("src") or "")
        found = self._shown(posixpath.normpath(posixpath.join(self._folder, unquote(address))))
        return f'<img class="found" alt="{about}" src="{found.uri}">' if found else f"[{about}]"


def _long_tables(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    spans, first = [], 0
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            first = i
        elif token.type == "table_close":
            rows = sum(t.type == "tr_open" for t in tokens[first:i])
            if rows > _FOLDED:
                spans.append((first, i + 1))
    return spans
