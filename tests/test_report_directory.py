"""`gradfast report DIR`: what is shown of each kind of directory, and that nothing in one can act on the page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from gradfast.cli import app
from gradfast.detectors.evaluation import LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome
from gradfast.detectors.metrics import evaluate
from gradfast.errors import GradfastError, InputError
from gradfast.features import Features
from gradfast.report.directory import read_directory, write_directory_page
from gradfast.report.evaluation import outcomes_of, scores_of, write_outcomes
from gradfast.report.figures import roc_curves

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
HOSTILE = '<img src=x onerror=alert(1)> & "$\\frac$"'
FILE = "<img src=x onerror=alert(1)>&"  # as HOSTILE, but a file's name


class Page(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text("utf-8")
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def report(directory: Path, out: Path) -> Page:
    """The page of a directory, held to what every page must be: no script, nothing loaded, ids of their own, drawings that are XML."""
    page = Page(write_directory_page(directory, out))
    assert not {tag for tag, _ in page.found} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
        "form",
        "embed",
        "meta-refresh",
    }
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "xlink:href"):
            if attributes.get(name):
                assert re.match(r"data:image/|#", str(attributes[name])), attributes[name]
        if attributes.get("href"):
            assert re.match(r"https?://|#", str(attributes["href"])), attributes["href"]
    assert not re.search(r"url\((?!#)", page.html)
    assert "default-src 'none'" in page.html
    ids = [attributes["id"] for _, attributes in page.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for drawing in re.findall(r"<svg .*?</svg>", page.html, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
        assert not re.search(r"#[0-9a-f]{6}", drawing)  # colours of the theme only
    return page


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "results"
    directory.mkdir()
    return directory


def test_a_study_without_its_text_has_every_figure_in_a_table(here: Path, tmp_path: Path) -> None:
    shutil.copy(RESULTS / "tiny-imagenet.csv", here)
    page = report(here, tmp_path / "page.html")
    assert page.text.count("0.960") >= 1
    assert "Study: tiny-imagenet" in page.text
    assert "the tested kind never seen" in page.text or "outliers of the tested set seen" in page.text
    assert page.tags("svg")
    best = re.findall(r'<td class="best">([\d.]+)', page.html)
    assert best
    assert "paper 0.932" in page.text


def test_a_study_with_its_text_is_not_told_twice(here: Path, tmp_path: Path) -> None:
    for name in ("tiny-imagenet.csv", "tiny-imagenet.md", "tiny-imagenet.html"):
        shutil.copy(RESULTS / name, here)
    found = read_directory(here)
    (both,) = found.sections
    assert both.source == "tiny-imagenet.csv, tiny-imagenet.md"
    assert both.title == "CIFAR-10 against Tiny ImageNet"
    assert both.figures
    assert not both.results
    assert "<table>" in both.html
    assert found.others == ["tiny-imagenet.html"]
    assert "tiny-imagenet.html" in report(here, tmp_path / "page.html").text


def test_a_text_without_tables_takes_none_away(here: Path) -> None:
    (here / "a.csv").write_text("x,y\n1,2\n")
    (here / "a.md").write_text("# About a\n\nWords.\n")
    (here / "b.md").write_text("Other words.\n")
    a, b = read_directory(here).sections
    assert (a.title, len(a.grids)) == ("About a", 1)
    assert "Words" in a.html
    assert (b.source, b.grids) == ("b.md", ())


def test_levels_of_a_corruption_are_curves(here: Path) -> None:
    shutil.copy(RESULTS / "corruption.csv", here)
    (section,) = read_directory(here).sections
    assert any("level" in figure.caption for figure in section.figures)
    assert any("snow" in figure.svg for figure in section.figures)


def test_gradcon_study(here: Path, tmp_path: Path) -> None:
    for path in RESULTS.glob("gradcon-mnist.csv"):
        shutil.copy(path, here)
    for path in RESULTS.glob("gradcon-truck-*"):
        shutil.copy(path, here)
    page = report(here, tmp_path / "page.html")
    # The table of docs/results/gradcon-mnist.md, which the study itself wrote.
    line = next(
        line
        for line in (RESULTS / "gradcon-mnist.md").read_text().splitlines()
        if line.startswith("| CAE | reconstruction")
    )
    average = re.findall(r"[\d.]+", line)[-1]
    assert average in page.text
    assert len([a for a in page.tags("img") if str(a["src"]).startswith("data:image/svg+xml")]) == 3
    assert len([a for a in page.tags("img") if str(a["src"]).startswith("data:image/png")]) == 1


def test_cells_of_a_gradcon_study_are_shown_together(here: Path, tmp_path: Path) -> None:
    for label in (0, 1):
        for epochs in (1, 2):
            folder = here / "work" / "tiny" / "CAE" / f"class{label}-seed0"
            folder.mkdir(parents=True, exist_ok=True)
            last = {"reconstruction": 0.25 + label / 2 + epochs / 100}
            cell = {
                "data": "tiny",
                "class": label,
                "model": "CAE",
                "seed": 0,
                "epochs": epochs,
                "train_images": 9,
                "last": last,
            }
            (folder / f"result-{epochs}.json").write_text(json.dumps(cell))
    page = report(here, tmp_path / "page.html")
    assert re.findall(r"reconstruction</td><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)", page.html) == [
        ("0.270", "0.770", "0.520")
    ]
    assert page.text.count("4 cells") == 0
    assert "2 cells" in page.text


def test_features(here: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(50, 3, 4)))
    values[:, :, 2] = 7.25
    names = ["a.weight", HOSTILE, "c.weight", "d.bias"]
    Features.from_arrays(values, layers=names, logits=rng.normal(size=(50, 5)), labels=np.arange(50) % 5,
                         settings={"contrast": "one-hot", "model": HOSTILE}).save(here / "known")  # fmt: skip
    page = report(here, tmp_path / "page.html")
    assert "7.25" in page.text
    assert "Features: known" in page.text
    assert HOSTILE in page.text  # as text: report() has seen no such element
    alone = report(here / "known", tmp_path / "alone.html")
    assert "7.25" in alone.text


def test_unfinished_and_damaged_features_are_named(here: Path, tmp_path: Path) -> None:
    features = Features.from_arrays(np.ones((4, 1, 1)), layers=["w"])
    features.save(here / "good")
    features.save(here / "bad")
    part = next((here / "bad").glob("part-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 255
    part.write_bytes(data)
    (here / "begun" / "_progress").mkdir(parents=True)
    (here / "begun" / "_progress" / "run.json").write_text("{}")
    found = read_directory(here)
    assert [s.title for s in found.sections] == ["Features: good"]
    assert [name for name, _ in found.unread] == ["bad", "begun"]
    assert "unfinished" in dict(found.unread)["begun"]
    assert "begun" in report(here, tmp_path / "page.html").text


def outcome(method: str, out_set: str, protocol: str, shift: float) -> Outcome:
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=40), rng.normal(size=30) + shift) for _ in range(2)]
    return Outcome(method, out_set, protocol, tuple(evaluate(*pair) for pair in pairs), *pairs[0])


def test_a_detectors_test_comes_back(here: Path, tmp_path: Path) -> None:
    wanted = [
        outcome("Purview", HOSTILE, SAME_SET, 2.0),
        outcome("Purview", HOSTILE, LEFT_OUT, 1.0),
        outcome("softmax", HOSTILE, NO_OUTLIERS, 0.5),
    ]
    write_outcomes(wanted, here)
    import csv

    with (here / "evaluation.csv").open() as file:
        again = outcomes_of(csv.DictReader(file), scores_of(here / "evaluation.parquet"))
    for a, b in zip(wanted, again, strict=True):
        assert (a.method, a.out_set, a.protocol) == (b.method, b.out_set, b.protocol)
        np.testing.assert_array_equal(a.scores_in, b.scores_in)
        np.testing.assert_array_equal(a.scores_out, b.scores_out)
        assert a.mean.auroc == pytest.approx(b.mean.auroc, abs=1e-6)
        assert a.mean.fpr95 == pytest.approx(b.mean.fpr95, abs=1e-6)
    (here / "detector.json").write_text(
        json.dumps({"kind": "Purview", "threshold": 0.75, "schema": {"layers": [HOSTILE]}})
    )
    page = report(here, tmp_path / "page.html")
    assert f"{wanted[0].mean.auroc:.3f}" in page.text
    assert "0.75" in page.text
    assert len(re.findall(r"<svg ", page.html)) == 2
    assert roc_curves([again])  # with scores that can be drawn


def test_benchmarks(here: Path, tmp_path: Path) -> None:
    stored = json.loads((ROOT / "bench" / "results.json").read_text())
    shutil.copy(ROOT / "bench" / "results.json", here)
    page = report(here, tmp_path / "page.html")
    engine = next(r for r in stored["records"] if r["kind"] == "engine")
    ours = next(r for r in engine["results"] if r["name"] == "gradfast")
    loop = next(r for r in engine["results"] if r["name"] == "loop")
    assert f"{1e3 * ours['per_row']:.3f}" in page.text
    assert f"{loop['per_row'] / ours['per_row']:.2f}" in page.text
    assert "Kernels" in page.text
    # What `gradfast bench --json` writes.
    one = {"machine": {"processor": HOSTILE}, "task": HOSTILE, "batch": 2, "results": engine["results"], "peak_bytes": {HOSTILE: [5_000_000, None]}}  # fmt: skip
    (here / "results.json").write_text(json.dumps(one))
    page = report(here, tmp_path / "page.html")
    assert f"{loop['per_row'] / ours['per_row']:.2f}" in page.text
    assert HOSTILE in page.text


def test_training(here: Path, tmp_path: Path) -> None:
    (here / "metrics.csv").write_text("epoch,loss,test_accuracy,lr\n1,2.0,0.25,0.1\n2,1.0,0.8125,0.05\n")
    (here / "training.json").write_text(
        json.dumps({"sha256": "0", "settings": {"name": HOSTILE}, "history": [1, 2]})
    )
    page = report(here, tmp_path / "page.html")
    assert "0.8125" in page.text
    assert HOSTILE in page.text
    assert "2 epochs" in page.text


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scores(here: Path, tmp_path: Path, kind: str) -> None:
    n = 101
    columns = {
        "index": np.arange(n),
        "label": np.zeros(n, int),
        "flagged": np.arange(n) == 3,
        "score": np.arange(n, dtype=float),
    }
    columns["out"] = columns["score"] > 60
    table = pa.table({**columns, HOSTILE: np.linspace(0, 1, n)})
    if kind == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, here / "scores.csv")
    else:
        pq.write_table(table, here / "scores.parquet")
    page = report(here, tmp_path / "page.html")
    cells = re.findall(r"<tr><td class=\"name\">score</td>(.*?)</tr>", page.html)
    assert re.findall(r"<td>([\d.]+)</td>", cells[0]) == ["0", "5", "50", "95", "100"]
    facts = dict(zip(*[re.findall(rf"<{tag}>(.*?)</{tag}>", page.html) for tag in ("dt", "dd")], strict=True))
    assert (facts["samples"], facts["flagged"], facts["out of distribution"]) == ("101", "1", "40")


def test_any_table_any_json_any_text(here: Path, tmp_path: Path) -> None:
    (here / "a.csv").write_text(f'x,"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n1,{FILE}\n')
    (here / "b.json").write_text(json.dumps({HOSTILE: [HOSTILE, {"deep": [1, 2]}]}))
    (here / "c.json").write_text(json.dumps({"one": {HOSTILE: 1}, "two": {HOSTILE: None}}))
    (here / "d.md").write_text("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nText with `code`.\n")
    page = report(here, tmp_path / "page.html")
    assert page.text.count(HOSTILE) >= 4
    assert "Text with code." in page.text
    assert "Title" in page.text


def test_hostile_names_of_files_and_columns(here: Path, tmp_path: Path) -> None:
    (here / f"{FILE}.csv").write_text("epoch,loss,<script>alert(1)</script>\n1,2,3\n2,3,4\n")
    (here / f"{FILE}.json").write_text("[")
    (here / f"{FILE}.txt").write_text("")
    Image.new("L", (2, 2)).save(here / f"{FILE}.png")
    page = report(here, tmp_path / "page.html")
    for name in (f"{FILE}.csv", f"{FILE}.json", f"{FILE}.txt", f"{FILE}.png", "<script>alert(1)</script>"):
        assert name in page.text, name
    assert page.tags("img")[0]["alt"] == f"{FILE}.png"
    assert len(page.tags("img")) == 1


def test_hostile_markdown(here: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(secret)
    Image.new("L", (2, 2)).save(here / "own.png")
    (here / "a.md").write_text(
        f"# {FILE}\n\n<script>alert(1)</script>\n\n<b onclick=alert(1)>bold</b>\n\n"
        "[one](javascript:alert(1)) [two](data:text/html,x) [three](https://example.com/?a=1&b=2) [four](other.md) [five](//evil)\n\n"
        f'![six](https://example.com/x.png) ![seven](../secret.png) ![eight]({secret}) ![nine](own.png) ![ten](data:image/png;base64,AA "t")\n'
        f'\n![eleven](x"onerror="alert(1))\n'
    )
    page = report(here, tmp_path / "page.html")
    assert [a["href"] for a in page.tags("a") if not str(a["href"]).startswith("#")] == [
        "https://example.com/?a=1&b=2"
    ]
    assert [a["alt"] for a in page.tags("img")] == ["nine"]
    assert "<script>alert(1)</script>" in page.text


def test_links_are_not_followed(here: Path, tmp_path: Path) -> None:
    (tmp_path / "private.md").write_text("private")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.csv").write_text("a\nprivate\n")
    (here / "open.md").write_text("open")
    (here / "link.md").symlink_to(tmp_path / "private.md")
    (here / "folder").symlink_to(tmp_path / "elsewhere")
    page = report(here, tmp_path / "page.html")
    assert "open" in page.text
    assert "private" not in page.html


def test_a_picture_that_is_none_is_not_taken(here: Path) -> None:
    (here / "a.md").write_text("text ![p](p.png)")
    (here / "p.png").write_bytes(b"<svg onload=alert(1)>")
    found = read_directory(here)
    assert [name for name, _ in found.unread] == ["p.png"]
    assert "[p]" in found.sections[0].html


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is empty"),
        ({"a.txt": b"x"}, "holds no results (1 other files, such as a.txt)"),
        ({"a.csv": b""}, "nothing that can be read (a.csv: an empty table)"),
        ({"a.csv": b"a,b\n1\n"}, "differ in length"),
        ({"a.csv": b"\xff\xfe"}, "UnicodeDecodeError"),
        ({"a.json": b"{"}, "JSONDecodeError"),
        ({"a.json": b"[" * 100_000}, "a.json: "),
        ({"a.json": b'{"machine": {}, "records": [{"kind": "engine"}]}'}, "has no 'results'"),
        ({"a.parquet": b"PAR1"}, "a.parquet: "),
        ({"_manifest.json": b"{}"}, "not what gradfast wrote"),
    ],
)
def test_nothing_to_show_is_an_error(here: Path, content: dict[str, bytes], message: str) -> None:
    for name, data in content.items():
        (here / name).write_bytes(data)
    with pytest.raises(InputError, match=r"^directory: ") as error:
        read_directory(here)
    assert message in str(error.value)
    assert "wanted features, or files that end in .csv" in str(error.value)


def test_one_damaged_file_does_not_hide_the_others(here: Path, tmp_path: Path) -> None:
    (here / "a.json").write_text('{"a": 1}')
    (here / "study.csv").write_text(
        "study,model,inside,outside,level,protocol,method,metric,mean,half_width_95\ns,m,i,o,,same set,x,auroc,not a number,\n"
    )
    found = read_directory(here)
    assert [s.title for s in found.sections] == ["a"]
    assert [name for name, _ in found.unread] == ["study.csv"]


def test_without_matplotlib_the_error_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "metrics.csv").write_text("epoch,loss\n1,2\n")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(GradfastError, match=r"pip install '\.\[report\]'"):
        read_directory(here)


def test_the_same_bytes_twice(here: Path, tmp_path: Path) -> None:
    shutil.copy(RESULTS / "gradcon-mnist.csv", here)
    (here / "deep" / "er").mkdir(parents=True)
    (here / "deep" / "er" / "a.json").write_text('{"a": 1}')
    first = write_directory_page(here, tmp_path / "1.html").read_bytes()
    assert write_directory_page(here, tmp_path / "2.html").read_bytes() == first
    assert b"deep/er/a.json" in first


class TestCommand:
    def test_names_the_page_after_the_directory(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "a.json").write_text('{"a": 1}')
        (here / "b.json").write_text("{")
        monkeypatch.chdir(here.parent)
        result = CliRunner().invoke(app, ["report", "results"])
        assert result.exit_code == 0, result.output
        assert (here.parent / "results-report.html").is_file()
        assert "not read: b.json" in result.output
        assert sorted(p.name for p in here.iterdir()) == [
            "a.json",
            "b.json",
        ]  # what is reported on is left as it was

    def test_mistakes(self, here: Path, tmp_path: Path) -> None:
        for argument, message in (
            (here, "is empty"),
            (tmp_path / "none", "does not exist"),
            (Path(__file__), "is a file"),
        ):
            result = CliRunner().invoke(app, ["report", str(argument), "-o", str(tmp_path / "page.html")])
            assert result.exit_code == 2
            assert message in result.stderr
            assert not (tmp_path / "page.html").exists()
