"""A detection report as one HTML file: no script, no network, every name escaped, readable on light and dark
screens.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors.evaluation import ALL_SETS, AS_SAVED, LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome
from gradfast.report import html
from gradfast.report.tables import ResultTable

__all__ = ["FigureBlock", "Gallery", "Page", "Strip", "image_strip", "write_page"]


_PROTOCOL_NAMES = {
    SAME_SET: "outliers of the tested kind seen",
    ALL_SETS: "outliers of every kind seen",
    LEFT_OUT: "tested kind never seen",
    AS_SAVED: "detector as saved",
    NO_OUTLIERS: "no outliers seen",
}


@dataclass(frozen=True)
class FigureBlock:
    """A figure with its title and what to see in it; `svg` comes from `gradfast.report.figures`."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Strip:
    """Example images of one set: `uri` is a data URI, `role` the set's colour."""

    name: str
    role: str
    uri: str


@dataclass(frozen=True)
class Gallery:
    """Example images of every set, and what there is to say about them."""

    about: Sequence[str]
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Page:
    """All that a report says; texts are plain, the template escapes them."""

    title: str
    lead: Sequence[str]
    outcomes: Sequence[Outcome]
    tables: Sequence[ResultTable]
    figures: Sequence[FigureBlock] = ()
    gallery: Gallery | None = None
    facts: Sequence[tuple[str, str]] = ()
    command: str = ""


def image_strip(name: str, role: str, images: NDArray[np.uint8], scale: int = 6) -> Strip:
    """Images [n, H, W] (grey) or [n, H, W, 3] side by side, `scale` times enlarged, as a PNG."""
    from PIL import Image

    colour = images if images.ndim == 4 else np.stack([images] * 3, axis=-1)
    n, height, width, _ = colour.shape
    # One transparent pixel between two images.
    row = np.zeros((height, n * (width + 1) - 1, 4), dtype=np.uint8)
    for i, image in enumerate(colour):
        place = slice(i * (width + 1), i * (width + 1) + width)
        row[:, place, :3], row[:, place, 3] = image, 255
    enlarged = row.repeat(scale, axis=0).repeat(scale, axis=1)
    file = io.BytesIO()
    Image.fromarray(enlarged).save(file, format="PNG", optimize=True)
    return Strip(name, role, "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii"))


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Renders the page and writes it whole or not at all."""
    return html.write_text(render(page), path)


def render(page: Page) -> str:
    """The page's HTML."""
    return html.render("detection.html", page=page, cards=_cards(page.outcomes))


def _cards(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One card per method: its mean AUROC over the sets, and that with the tested kind left out."""
    areas: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        areas.setdefault(outcome.method, {}).setdefault(outcome.protocol, []).append(outcome.mean.auroc)
    cards: list[dict[str, Any]] = []
    for method, by_protocol in areas.items():
        main = next(
            protocol
            for protocol in (SAME_SET, ALL_SETS, AS_SAVED, NO_OUTLIERS, LEFT_OUT)
            if protocol in by_protocol
        )
        left_out = by_protocol.get(LEFT_OUT) if main != LEFT_OUT else None
        cards.append(
            {
                "method": method,
                "protocol": _PROTOCOL_NAMES[main],
                "auroc": float(np.mean(by_protocol[main])),
                "sets": len(by_protocol[main]),
                "left_out": float(np.mean(left_out)) if left_out else None,
            }
        )
    best = max((card["auroc"] for card in cards), default=None)
    return [{**card, "chosen": card["auroc"] == best} for card in cards]
