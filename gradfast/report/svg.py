"""Matplotlib figures as inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, cast

from gradfast.errors import GradfastError
from gradfast.report import theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawing", "inline_svg"]

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a file's name is a "$"
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_POINTS_PER_REM = 11.5  # a rem of 16 pixels is 12 points: drawings come out a little larger than drawn
_ROLE_OF_PART = {
    "text.color": "ink",
    "axes.labelcolor": "muted",
    "axes.edgecolor": "muted",
    "axes.titlecolor": "ink",
    "xtick.color": "muted",
    "ytick.color": "muted",
    "grid.color": "grid",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's settings for the figures of a report; raises `GradfastError` where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise GradfastError(
            "matplotlib is not installed; reports need it: pip install '.[report]' in gradfast's checkout"
        ) from error
    colours: dict[str, Any] = {part: theme.placeholder(role) for part, role in _ROLE_OF_PART.items()}
    with mpl.rc_context(cast("Any", {**_STYLE, **colours})):
        yield


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element; to be called inside `drawing`.

    `name` keeps its ids apart from those of other figures on the page, `description` is what a screen reader
    says.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05
        )
    text = file.getvalue()
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    width = float(view_box.group().split()[2]) / _POINTS_PER_REM
    opening = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' {view_box.group()} style="--width: {width:.1f}rem" role="img" aria-label="{escape(description)}">'
    )
    body = text[text.index(">", view_box.end()) + 1 :].strip()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, flags=re.DOTALL
    )  # it would style the page
    body = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the page's font applies
    body = re.sub(r"font: ((?:\w+ )?)([\d.]+px) [^;\"]*", _font, body)
    for role in theme.roles():
        body = body.replace(theme.placeholder(role), theme.ink(role))
    return opening + body


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
