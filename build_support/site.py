"""MkDocs hooks: formulas as MathML, which needs no script in the page, and the pages of ``bench/`` as pages of the site."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

_BENCH = Path(__file__).resolve().parent.parent / "bench"
_FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the texts and drawings of ``bench/``."""
    for path in sorted((*_BENCH.glob("*.md"), *_BENCH.glob("*.svg"))):
        files.append(File.generated(config, f"bench/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to ``../bench/`` are right in the repository; in the site the folder lies beside the pages."""
    return markdown.replace("](../bench/", "](bench/")


def on_page_content(html: str, **_: Any) -> str:
    """TeX, as pymdownx.arithmatex marks it, to MathML; raises `PluginError` where some is left."""
    html = _FORMULA.sub(_mathml, html)
    if "arithmatex" in html:
        raise PluginError("a formula was not turned into MathML, and would be shown as TeX")
    return html


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    formula: str = convert(unescape(match[2]).strip(), display=display)
    return formula
