"""What studies are made of: the papers' figures, intervals, the cache, images that are prepared alike, splits and protocols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from gradfast.errors import InputError
from gradfast.studies import MethodEntry, SetEntry
from gradfast.studies.cache import Cache
from gradfast.studies.catalogue import locate
from gradfast.studies.images import Recipe, compressed, read_images, stored_quality
from gradfast.studies.paper import paper_figure, paper_figures
from gradfast.studies.protocols import Group, Pairing, run_method
from gradfast.studies.results import LEFT_OUT, SAME_SET
from gradfast.studies.statistics import estimate, spearman


def test_paper_has_every_figure_of_the_tables() -> None:
    count = {
        kind: sum(f.study == kind for f in paper_figures()) for kind in ("ood", "adversarial", "corruption")
    }
    assert count == {"ood": 6 * 5 * 3, "adversarial": 2 * 6 * 7, "corruption": 16 * 5 * 2}
    assert all(0 < f.value <= 1 for f in paper_figures())
    ours = paper_figure("ood", inside="CIFAR-10", outside="TinyImageNet", method="purview", metric="auroc")
    assert ours == 0.9318
    assert paper_figure("ood", inside="CIFAR-10", outside="", method="purview", metric="auroc") is None


@pytest.mark.shared
def test_paper_is_the_seed_digit_by_digit(shared: Path) -> None:
    text = (shared.parent / "seed.txt").read_text(encoding="utf-8")
    text = re.sub(r"</?mark>", "", text).replace("89 .89", "89.89")
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if "|" in line
    ]
    for f in paper_figures():
        if f.study == "ood":
            methods = ["max_softmax", "odin", "mahalanobis", "mahalanobis_p_fe", "purview"]
            column = 2 + ["detection_accuracy", "auroc", "aupr"].index(f.metric)
            blocks = [
                row for row in rows if len(row) >= 5 and row[2].count("/") == 4 and row[2][0].isdigit()
            ][:6]
            row = blocks[["CIFAR-10", "SVHN"].index(f.inside) * 3 :][:3]
            (cells,) = [r[column] for r in row if r[1] == f.outside]
            printed = cells.split(" / ")[methods.index(f.method)]
        elif f.study == "adversarial":
            methods = [
                "max_softmax",
                "lid",
                "mahalanobis",
                "mahalanobis_p",
                "mahalanobis_fe",
                "mahalanobis_p_fe",
                "purview",
            ]
            found = [row for row in rows if len(row) == 9 and row[1] == f.outside]
            printed = found[["ResNet", "DenseNet"].index(f.model)][2 + methods.index(f.method)]
        else:
            found = [row for row in rows if len(row) >= 7 and row[1] == f.outside]
            cells = found[["CIFAR-10-C", "CURE-TSR"].index(f.inside)][1 + f.level]
            printed = cells.split(" / ")[["mahalanobis", "purview"].index(f.method)]
        assert round(float(printed) / 100, 4) == f.value, f


# Statistics


def test_interval_is_the_corrected_resampled_one() -> None:
    values = [0.9, 0.92, 0.88, 0.91, 0.9]
    s = np.std(values, ddof=1)
    wanted = stats.t.ppf(0.975, 4) * s * np.sqrt(1 / 5 + 1)
    found = estimate(values)
    assert found.mean == pytest.approx(0.902)
    assert found.half_width == pytest.approx(wanted)
    assert found.half_width > stats.t.ppf(0.975, 4) * s / np.sqrt(5)  # the plain one
    assert np.isnan(estimate([0.9]).half_width)


def test_rank_correlation() -> None:
    assert spearman([1.0, 2.0, 30.0], [1, 2, 3]) == pytest.approx(1)
    assert spearman([3.0, 2.0, 1.0], [1, 2, 3]) == pytest.approx(-1)
    assert np.isnan(spearman([1.0, 1.0], [1, 2]))


# What is kept


def test_parts_are_computed_once_and_damaged_ones_again(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path), []

    def compute(rows: slice) -> dict[str, NDArray[Any]]:
        asked.append(rows.start)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {"x": np.arange(rows.start, rows.stop)}

    with pytest.raises(KeyboardInterrupt):
        cache.by_parts("kind", {"a": 1}, 5, 2, compute)
    found = cache.by_parts("kind", {"a": 1}, 5, 2, compute)
    assert found["x"].tolist() == [0, 1, 2, 3, 4]
    assert asked == [0, 2, 2, 4]  # the first part was kept
    part = next((tmp_path / "kind").glob("*/part-00001.npz"))
    part.write_bytes(part.read_bytes()[:40])
    assert cache.by_parts("kind", {"a": 1}, 5, 2, compute)["x"].tolist() == [0, 1, 2, 3, 4]
    assert asked[4:] == [2]
    assert not list(tmp_path.rglob(".part*"))
    cache.by_parts("kind", {"a": 2}, 5, 2, compute)
    assert asked[5:] == [0, 2, 4]


# Images


def test_sets_are_prepared_alike_and_it_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    for name, options in (("jpeg", {"quality": 75}), ("other", {"quality": 40}), ("png", {})):
        (tmp_path / name / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(
            tmp_path / name / "a" / f"1.{'png' if name == 'png' else 'jpg'}", **options
        )  # type: ignore[arg-type]
    assert [stored_quality(str(tmp_path / name)) for name in ("jpeg", "other", "png")] == [75, 40, None]
    cache = Cache(tmp_path / "cache")

    def notes(name: str, recipe: Recipe, **entry: Any) -> str:
        located = locate(SetEntry(name, **entry), [tmp_path], {})
        images = read_images(located, recipe, limit=5, seed=0, cache=cache)
        assert images.pixels.shape == (1, recipe.channels, recipe.size, recipe.size)
        return "; ".join(images.notes)

    assert notes("png", Recipe(16, 3, 75)) == "resized from 16x20 to 16x16; passed through JPEG, quality 75"
    assert "grey" in notes("png", Recipe(16, 1))
    (tmp_path / "grey" / "a").mkdir(parents=True)
    Image.fromarray(pixels[:, :16, 0]).save(tmp_path / "grey" / "a" / "1.png")
    assert notes("grey", Recipe(16, 3)) == "grey, as three equal channels"
    assert "not compressed" in notes("png", Recipe(16, 3, 75), compress=False)
    square = tmp_path / "square" / "a"
    square.mkdir(parents=True)
    Image.fromarray(pixels[:, :16]).save(square / "1.jpg", quality=75)
    assert notes("square", Recipe(16, 3, 75)) == ""  # it has been through that very pass
    assert "passed through JPEG" in notes("square", Recipe(16, 3, 60))


def test_made_up_noise_is_reproducible_and_compressed(tmp_path: Path) -> None:
    located = locate(SetEntry("noise", noise="uniform"), [], {})
    draw = [
        read_images(located, Recipe(16, 3, q), limit=3, seed=s, cache=Cache(tmp_path))
        for q, s in ((75, 0), (75, 0), (None, 0), (75, 1))
    ]
    assert np.array_equal(draw[0].pixels, draw[1].pixels)
    assert not np.array_equal(draw[0].pixels, draw[3].pixels)
    assert np.allclose(draw[0].pixels, compressed(draw[2].pixels, 75))
    levels = draw[0].pixels * 255
    assert np.allclose(levels, np.rint(levels), atol=1e-4)


# Protocols


class Recorder:
    """Remembers what it was fitted to."""

    def __init__(self) -> None:
        self.inside: Any = None
        self.outside: Any = None

    def fit(self, inside: Any, outside: Any = None) -> Recorder:
        self.inside, self.outside = inside, outside
        return self

    def score(self, rows: Any) -> Any:
        self.tested = rows
        return rows[:, 0]


def recording(made: list[Recorder], learns: bool = True) -> MethodEntry:
    def make(seed: int, norms: Any) -> Recorder:
        made.append(Recorder())
        return made[-1]

    return MethodEntry("r", "r", ("x",), make, learns)


class Column:
    """Columns as sources have them."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=np.float64)

    def __getitem__(self, rows: Any) -> Column:
        return Column(self.values[rows])

    def __len__(self) -> int:
        return len(self.values)


def group(values: Sequence[float], images: Sequence[int], pool: int) -> Group:
    return Group({"x": Column(np.array(values)[:, None])}, np.array(images), pool)  # type: ignore[dict-item]


def test_no_version_of_an_image_is_on_both_sides() -> None:
    clean = group(range(20), range(20), 20)
    attacked = {name: group([100 * k + i for i in rows], rows, 20) for k, (name, rows) in enumerate({"a": range(20), "b": range(5, 20)}.items(), 1)}  # fmt: skip
    pairings = [Pairing(name, clean, of) for name, of in attacked.items()]
    made: list[Recorder] = []
    run_method(recording(made), [pairings[0]], pairings, LEFT_OUT, [0, 1])
    for recorder in made:
        fitted = {int(v) % 100 for v in np.concatenate([recorder.inside, recorder.outside])[:, 0]}
        tested = {int(v) % 100 for v in recorder.tested[:, 0]}
        assert fitted
        assert tested
        assert not fitted & tested
        assert len(recorder.inside) == 10  # clean images that two pairings share count once


def test_scores_that_are_nan_are_left_out_and_counted() -> None:
    inside = group([0.0] * 10, range(10), 10)
    some = group([1.0] * 5 + [float("nan")] * 5, range(10), 10)
    (tested,) = run_method(
        recording([]), [Pairing("s", inside, some)], [Pairing("s", inside, some)], SAME_SET, [0]
    )
    assert tested.scoreless == 5 - tested.test_out
    assert tested.outcome.mean.auroc == 1
    none = group([float("nan")] * 10, range(10), 10)
    with pytest.raises(InputError, match="wanted at least 2"):
        run_method(recording([]), [Pairing("n", inside, none)], [Pairing("n", inside, none)], SAME_SET, [0])


def test_too_few_samples_are_refused() -> None:
    inside, few = group([0.0] * 10, range(10), 10), group([1.0, 2.0], range(2), 2)
    with pytest.raises(InputError, match="1 samples out to fit to"):
        run_method(recording([]), [Pairing("f", inside, few)], [Pairing("f", inside, few)], SAME_SET, [0])


# Whole studies
