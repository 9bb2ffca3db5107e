"""Reports: what the tables say, that pages are self-contained and safe, and that both themes can be read."""

from __future__ import annotations

import base64
import io
import itertools
import re
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from gradfast.detectors.evaluation import LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome
from gradfast.detectors.metrics import DetectionMetrics, evaluate
from gradfast.errors import GradfastError
from gradfast.report import (
    Gallery,
    NormProfile,
    Page,
    detection_page,
    image_strip,
    metric_table,
    protocol_tables,
    rich_table,
    write_page,
)
from gradfast.report.figures import SetProfile
from gradfast.report.svg import drawing
from gradfast.report.theme import METHODS, OUTSIDE, css_variables

HOSTILE = '<img src=x onerror=alert(1)> & "$\\frac$" \''


def outcome(method: str, out_set: str, protocol: str, shift: float, splits: int = 2) -> Outcome:
    rng = np.random.default_rng(zlib.crc32(f"{method} {out_set} {protocol}".encode()))
    scores = [(rng.normal(size=80), rng.normal(size=60) + shift) for _ in range(splits)]
    return Outcome(method, out_set, protocol, tuple(evaluate(*pair) for pair in scores), *scores[0])


def exact(method: str, protocol: str, auroc: float, fpr95: float) -> Outcome:
    metrics = DetectionMetrics(auroc, 0.5, 0.5, 0.5, fpr95)
    return Outcome(method, "set", protocol, (metrics,), np.zeros(1), np.ones(1))


@pytest.fixture(scope="module")
def page() -> Page:
    names = [HOSTILE, "textures", "noise", "blur"]
    outcomes = []
    for name in names:
        outcomes += [
            outcome("Purview", name, SAME_SET, 2.0),
            outcome("Purview", name, LEFT_OUT, 1.0),
            outcome("maximum softmax", name, NO_OUTLIERS, 0.5),
        ]
    rng = np.random.default_rng(0)
    norms = {name: np.exp(rng.normal(size=(50, 3, 12))) for name in ["known", *names]}
    layers = [f"layer{i}.{HOSTILE}" for i in range(12)]
    strip = image_strip(HOSTILE, "inside", rng.integers(0, 255, (3, 8, 8)).astype(np.uint8))
    return detection_page(
        HOSTILE,
        [HOSTILE],
        outcomes,
        NormProfile.of(HOSTILE, layers, "known", norms),
        shown_method="Purview",
        gallery=Gallery([HOSTILE], [strip]),
        facts=[(HOSTILE, HOSTILE)],
        command=HOSTILE,
    )


@pytest.fixture(scope="module")
def html(page: Page, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(page, tmp_path_factory.mktemp("report") / "deep" / "report.html").read_text("utf-8")


class Elements(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_needs_no_network_and_runs_no_script(html: str) -> None:
    elements = Elements(html).found
    assert not {tag for tag, _ in elements} & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "xlink:href"):
            if attributes.get(name):
                assert re.match(r"data:image/png;base64,|#", str(attributes[name])), attributes[name]
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_names_are_text_everywhere(html: str) -> None:
    images = [attributes for tag, attributes in Elements(html).found if tag == "img"]
    assert [str(image["src"])[:10] for image in images] == ["data:image"]
    assert images[0]["alt"] == f"Examples of {HOSTILE}"
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") > 20
    assert "$\\frac$" in html  # no figure took it for mathematics


def test_figures_are_xml_with_ids_of_their_own(html: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 3
    ids = [
        element.get("id")
        for drawing in drawings
        for element in ElementTree.fromstring(drawing).iter()
        if element.get("id")
    ]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r"(?:url\(|href=\")#([\w.-]+)", html):
        assert reference in ids


def test_figures_take_their_colours_from_the_theme(html: str) -> None:
    drawings = "".join(re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}", drawings)
    used = set(re.findall(r"var\(--([\w-]+)\)", drawings))
    assert {"inside", "ink", "muted", "grid", *OUTSIDE[:4], METHODS[0], METHODS[-1]} <= used
    assert used <= set(re.findall(r"--([\w-]+):", css_variables()))


def test_figures_are_as_wide_as_their_text_needs(html: str) -> None:
    widths = [float(width) for width in re.findall(r'<svg [^>]*style="--width: ([\d.]+)rem"', html)]
    assert len(widths) == 3
    assert all(55 < width < 75 for width in widths)  # three panels, or all layers


def test_writing_twice_gives_the_same_bytes(page: Page, html: str, tmp_path: Path) -> None:
    path = write_page(page, tmp_path / "report.html")
    assert path.read_text("utf-8") == html
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def colours_of(theme: str) -> dict[str, np.ndarray]:
    """Linear RGB of every role."""
    block = css_variables().split("@media")[theme == "dark"]
    channels = {
        role: np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        for role, colour in re.findall(r"--([\w-]+):#([0-9a-f]{6})", block)
    }
    return {
        role: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for role, c in channels.items()
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_have_contrast(theme: str) -> None:
    luminance = {role: c @ [0.2126, 0.7152, 0.0722] for role, c in colours_of(theme).items()}

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance[a], luminance[b]))
        return (high + 0.05) / (low + 0.05)

    # WCAG 2.2: 4.5:1 for text, 3:1 for the parts of a figure.
    for role in ("ink", "muted", "accent"):
        assert contrast(role, "surface") >= 4.5, role
        assert contrast(role, "page") >= 4.5, role
    for role in ("inside", *OUTSIDE, *METHODS):
        assert contrast(role, "surface") >= 3, role


# What protanopes, deuteranopes and tritanopes see of linear RGB (Machado, Oliveira & Fernandes 2009, severity 1).
EYES = {
    "usual": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
XYZ = np.array(
    [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8729]]
)  # white is 1, 1, 1


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colour_blind_eyes_tell_the_sets_apart(theme: str, eyes: str) -> None:
    def lab(colour: np.ndarray) -> np.ndarray:
        xyz = XYZ @ np.clip(np.asarray(EYES[eyes]) @ colour, 0, 1)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    seen = {role: lab(c) for role, c in colours_of(theme).items()}
    for a, b in itertools.combinations(["inside", *OUTSIDE], 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 20, (a, b)  # CIE 1976; 2.3 is just noticeable side by side


class TestTables:
    def test_best_is_marked_and_lower_is_better_for_fpr(self) -> None:
        table = metric_table("t", [exact("a", SAME_SET, 0.9, 0.2), exact("b", NO_OUTLIERS, 0.8, 0.1)])
        rows = {row.method: row.cells for row in table.groups[0].rows}
        assert [cell.text for cell in rows["a"]] == ["0.900", "0.500", "0.500", "0.500", "0.200"]
        assert [cell.best for cell in rows["a"]] == [True, True, True, True, False]
        assert [cell.best for cell in rows["b"]] == [False, True, True, True, True]

    def test_a_single_method_is_not_called_the_best(self) -> None:
        table = metric_table("t", [exact("a", SAME_SET, 0.9, 0.2)])
        assert not any(cell.best for cell in table.groups[0].rows[0].cells)

    def test_spread_is_that_of_the_splits(self) -> None:
        result = outcome("a", "s", SAME_SET, 1.0, splits=3)
        cell = metric_table("t", [result]).groups[0].rows[0].cells[0]
        expected = np.std([split.auroc for split in result.splits], ddof=1)
        assert cell.spread == f"{expected:.3f}".lstrip("0")

    def test_protocols_are_never_mixed(self, page: Page) -> None:
        same, left_out = protocol_tables(page.outcomes)
        assert "kind seen" in same.title
        assert "never seen" in left_out.title
        values = {
            table.title: [float(row.cells[0].text) for group in table.groups for row in group.rows]
            for table in (same, left_out)
        }
        for table, protocol in ((same, SAME_SET), (left_out, LEFT_OUT)):
            expected = [
                round(o.mean.auroc, 3)
                for name in dict.fromkeys(o.out_set for o in page.outcomes)
                for wanted in (protocol, NO_OUTLIERS)
                for o in page.outcomes
                if o.out_set == name and o.protocol == wanted
            ]
            assert values[table.title] == pytest.approx(expected)

    def test_terminal(self, page: Page) -> None:
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(rich_table(metric_table("[red]x", [exact("[b]m", SAME_SET, 0.9, 0.2)])))
        text = console.export_text()
        assert "[red]x" in text
        assert "[b]m" in text
        assert "0.900" in text


def test_profile_quartiles() -> None:
    values = np.empty((5, 2, 1))
    values[:, 0, 0] = [1.0, 10.0, 100.0, 1e3, np.nan]  # the sample with NaN is left out
    values[:, 1, 0] = values[:, 0, 0]
    np.testing.assert_allclose(SetProfile.of("s", values).quartiles[:, 0], [0.75, 1.5, 2.25])


def test_image_strip_keeps_pixels() -> None:
    images = np.arange(2 * 2 * 2, dtype=np.uint8).reshape(2, 2, 2) * 30
    uri = image_strip("s", "inside", images, scale=3).uri
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert row.shape == (6, 15, 4)
    np.testing.assert_array_equal(row[::3, 0:6:3, 0], images[0])
    np.testing.assert_array_equal(row[::3, 9::3, 0], images[1])
    assert (row[:, 6:9, 3] == 0).all()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GradfastError, match=r"pip install '\.\[report\]'"), drawing():
        pass
