"""Studies: what is split, kept, left blank and written; on digits and a network of two layers."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn
from typer.testing import CliRunner

from gradfast.cli import app
from gradfast.errors import InputError
from gradfast.studies import (
    BUILTIN,
    METHODS,
    MethodEntry,
    ModelEntry,
    Profile,
    SetEntry,
    Settings,
    Study,
    narrowed,
    read_declaration,
    run_study,
)
from gradfast.studies import SETS as SETS_OF_TUTORIAL
from gradfast.studies.cache import Cache
from gradfast.studies.catalogue import locate
from gradfast.studies.images import Recipe, compressed, read_images, stored_quality
from gradfast.studies.paper import paper_figure, paper_figures
from gradfast.studies.protocols import Group, Pairing, run_method
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, StudyResult
from gradfast.studies.scorers import BestColumn
from gradfast.studies.statistics import estimate, spearman
from gradfast.studies.tables import summary_tables
from gradfast.studies.verdict import verdict
from gradfast.studies.write import write_results

HOSTILE = "<img src=x onerror=alert(1)> | *x* [red]"

ENTRY = """
import torch
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
    def forward(self, x):
        x = ((x > 0.1).float() + 0 * x).flatten(1)
        return self.third(self.second(self.first(x).relu()).relu())

def steps():
    torch.manual_seed(0)
    return Steps()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, their inverse and noise as .npz, and a network that knows digits."""
    place = tmp_path_factory.mktemp("data")
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 4).astype(np.uint8)  # faint, so that attacks succeed
    rng = np.random.default_rng(0)
    np.savez(place / "digits-train.npz", images=pixels[:900], labels=labels[:900])
    np.savez(place / "digits.npz", images=pixels[900:], labels=labels[900:])
    np.savez(place / "one-class.npz", images=pixels[labels == 3], labels=labels[labels == 3])
    np.savez(place / "inverse.npz", images=255 - pixels[900:1100])
    colour = np.repeat(rng.integers(0, 256, (200, 12, 10, 1), dtype=np.uint8), 3, axis=3)
    colour[..., 0] //= 2
    np.savez(place / "colours.npz", images=colour)
    (place / "nets.py").write_text(ENTRY, encoding="utf-8")
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(ENTRY, scope)
    model = scope["net"]()
    x = torch.from_numpy(pixels[:900]).float()[:, None] / 255
    y = torch.from_numpy(labels[:900])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), place / "net.safetensors")
    return place


SETS = tuple(
    SetEntry(name) for name in ("digits", "digits-train", "one-class", "inverse", "colours", "absent")
)


def study(folder: Path, kind: str = "ood", **changed: Any) -> Study:
    """A small study of the digit network."""
    entry = ModelEntry("net", f"{folder / 'nets.py'}:net", "digits", "net.safetensors", "digits-train", 8, 1)
    facts: dict[str, Any] = {
        "kind": kind,
        "name": "small",
        "title": "Small",
        "models": (entry,),
        "methods": ("purview-all-ones", "penultimate", "max-softmax", "mahalanobis"),
        "outside": {"digits": ("inverse", "colours", "absent"), "one-class": ("inverse",)},
        "attacks": ("fgsm", "pgd"),
        "corruptions": ("noise", "exposure"),
        "levels": (1, 5),
        "sets": {entry.name: entry for entry in SETS},
        "profiles": {"quick": Profile(60, 100, 2)},
    }
    return Study(**{**facts, **changed})


def run(folder: Path, tmp_path: Path, declared: Study, lines: list[str] | None = None) -> StudyResult:
    say = (lambda line: None) if lines is None else lines.append
    return run_study(declared, "quick", Settings(roots=(folder,), cache=tmp_path / "cache", say=say))


# The tutorial's figures


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


def test_ood_study_runs_leaves_blank_and_goes_on(folder: Path, tmp_path: Path) -> None:
    first: list[str] = []
    found = run(folder, tmp_path, study(folder), first)
    rows = {(r.outside, r.protocol, r.method) for r in found.results if r.protocol != CONTROL}
    assert rows == {
        *((o, p, m) for o in ("inverse", "colours") for p in (SAME_SET, LEFT_OUT) for m in ("purview-all-ones", "penultimate")),
        *((o, NO_OUTLIERS, m) for o in ("inverse", "colours") for m in ("max-softmax", "mahalanobis")),
    }  # fmt: skip
    assert all(r.samples[2:] == (30, 30) for r in found.results)
    assert [b.outside for b in found.blanks] == ["absent"]
    assert "--data absent=PATH" in found.blanks[0].why
    said = dict(found.facts)
    assert "resized from 12x10 to 8x8; turned to grey" in said["net, colours"]
    assert any("norms of digits" in line for line in first)
    again: list[str] = []
    other = replace(study(folder), methods=(*study(folder).methods, "energy"))
    repeated = run(folder, tmp_path, other, again)
    computed = [line for line in again if " of " in line and "fitting" not in line and "blank" not in line]
    assert all("energy of" in line for line in computed), computed
    for r in found.results:
        (same,) = repeated.chosen(outside=r.outside, protocol=r.protocol, method=r.method)
        assert same.auroc == pytest.approx(r.auroc, abs=1e-9)
    (answer,) = verdict(found)
    assert any("use " in sentence for sentence in answer.sentences)
    for table in summary_tables(found):
        for group in table.groups:
            for row in group.rows:
                *areas, mean = (cell for cell in row.cells if cell.text != "–")
                wanted_mean = sum(float(cell.text) for cell in areas) / len(areas)
                assert float(mean.text) == pytest.approx(wanted_mean, abs=1e-3)
                assert all(cell.spread for cell in (*areas, mean))
    assert {curve.outside for curve in found.curves} == {"inverse"}


def test_steps_are_chosen_on_the_half_that_is_fitted_to(folder: Path, tmp_path: Path) -> None:
    methods = ("odin", "odin-tuned", "mahalanobis-p-tuned")
    found = run(folder, tmp_path, study(folder, methods=("max-softmax", "purview-all-ones", *methods)))
    for method in methods[1:]:
        (row,) = found.chosen(outside="inverse", protocol=SAME_SET, method=method)
        assert row.samples == (30, 30, 30, 30)
        assert 0 <= row.auroc <= 1
    rng = np.random.default_rng(0)
    columns = np.stack([rng.normal(size=80), np.repeat([0.0, 1.0], 40), np.repeat([0.0, 2.0], 40)], axis=1)
    scorer = BestColumn().fit(columns[:40], columns[40:])
    assert scorer.column == 1  # the first of equals
    assert np.array_equal(scorer.score(columns[:3] * 5), columns[:3, 1] * 5)
    with pytest.raises(InputError, match="chosen on known outliers"):
        BestColumn().fit(columns)


def test_a_study_of_a_single_class(folder: Path, tmp_path: Path) -> None:
    declared = study(folder)
    entry = replace(declared.models[0], inside="one-class", fit="one-class")
    found = run(folder, tmp_path, replace(declared, models=(entry,)))
    assert {r.method for r in found.results} == set(declared.methods)


def test_missing_weights_and_training_images_leave_blanks(folder: Path, tmp_path: Path) -> None:
    declared = study(folder)
    bare = replace(declared.models[0], name="bare", weights="nowhere.safetensors", where="train it")
    untaught = replace(declared.models[0], fit="absent")
    found = run(folder, tmp_path, replace(declared, models=(bare, untaught)))
    assert ("bare", "", "") in {(b.model, b.outside, b.method) for b in found.blanks}
    assert any(b.method == "mahalanobis" and "training images" in b.why for b in found.blanks)
    assert not found.chosen(model="bare")
    assert not found.chosen(method="mahalanobis")
    paths = write_results(found, tmp_path / "out")
    assert "train it" in paths[1].read_text(encoding="utf-8")


def test_adversarial_study_pairs_fooled_images_with_their_clean_versions(
    folder: Path, tmp_path: Path
) -> None:
    found = run(folder, tmp_path, study(folder, "adversarial"))
    for name in ("fgsm", "pgd"):
        fooled = int(dict(found.facts)[f"net, {name}"].split()[0])
        assert 0 < fooled <= 60
        for r in found.chosen(outside=name):
            assert r.samples[2] == r.samples[3]  # as many clean as attacked ones
            assert r.samples[2] <= fooled
    assert {r.protocol for r in found.results} == {SAME_SET, LEFT_OUT, NO_OUTLIERS, CONTROL}, found.blanks


def test_an_attack_that_never_succeeds_is_left_blank(folder: Path, tmp_path: Path) -> None:
    entry = ModelEntry("steps", f"{folder / 'nets.py'}:steps", "digits", None, "digits-train", 8, 1)
    declared = replace(study(folder, "adversarial"), models=(entry,), attacks=("fgsm",))
    found = run(folder, tmp_path, declared)  # its output is flat in the input: there is nothing to follow
    assert not found.results
    assert any(b.outside == "fgsm" and "never succeeds" in b.why for b in found.blanks)
    assert write_results(found, tmp_path / "out")[0].is_file()


def test_corruption_study_has_levels_and_rank_correlations(folder: Path, tmp_path: Path) -> None:
    found = run(folder, tmp_path, study(folder, "corruption"))
    cells = found.chosen(method="purview-all-ones", outside="noise")
    assert {(r.level, r.protocol) for r in cells} == {
        (1, SAME_SET), (5, SAME_SET), (1, SAME_KIND), (5, SAME_KIND), (0, SAME_KIND),
        (1, LEFT_OUT), (5, LEFT_OUT), (0, LEFT_OUT),
    }  # fmt: skip
    (order,) = found.chosen(method="purview-all-ones", outside="noise", level=0, protocol=SAME_KIND)
    assert -1 <= order.values["spearman"].mean <= 1
    strong, slight = (
        found.chosen(method="purview-all-ones", outside="noise", level=n, protocol=SAME_SET)[0].auroc
        for n in (5, 1)
    )
    assert strong > slight > 0.4


def test_published_corruptions_are_paired_with_their_clean_versions(folder: Path, tmp_path: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    root = tmp_path / "CURE-TSR" / "Real_Test"
    for kind, number, level in (("ChallengeFree", 0, 0), ("Noise-1", 8, 1), ("Noise-5", 8, 5)):
        (root / kind).mkdir(parents=True)
        rng = np.random.default_rng(level)
        for i in range(40):
            noisy = np.clip(pixels[i] + rng.normal(0, 20 * level, (8, 8)), 0, 255).astype(np.uint8)
            name = f"01_{labels[i] + 1:02d}_{number:02d}_{level:02d}_{i:04d}.bmp"
            Image.fromarray(noisy).save(root / kind / name)
    plain = study(folder, "corruption")
    entry = replace(plain.models[0], inside="cure-tsr", fit=None)
    declared = replace(
        plain,
        models=(entry,),
        corruptions=("noise",),
        methods=("purview-all-ones",),
        sets=dict(SETS_OF_TUTORIAL),
        outside={},
    )
    found = run_study(
        declared, Profile(40, 10, 2), Settings(roots=(folder, tmp_path), cache=tmp_path / "cache")
    )
    assert dict(found.facts)["net, noise"] == "as published: curetsr, noise"
    slight, strong = (found.chosen(level=level, protocol=SAME_SET)[0] for level in (1, 5))
    assert strong.auroc > slight.auroc
    assert strong.paper["auroc"] == 0.9481
    (root / "Noise-5" / "01_01_08_05_0039.bmp").unlink(missing_ok=True)
    next((root / "Noise-5").glob("*.bmp")).unlink()
    with pytest.raises(InputError, match="in their order"):
        run_study(declared, Profile(40, 10, 2), Settings(roots=(folder, tmp_path), cache=tmp_path / "cache"))


# Declarations


def test_declaration_is_read_and_checked(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = """
kind = "ood"
title = "Mine"
outside = ["inverse"]
methods = ["purview-all-ones", "max-softmax"]
[[models]]
name = "net"
spec = "nets.py:net"
weights = "net.safetensors"
inside = "digits"
size = 8
channels = 1
[[sets]]
name = "digits"
[[sets]]
name = "inverse"
data = "inverse.npz"
"""
    path.write_text(text, encoding="utf-8")
    declared = read_declaration(path)
    assert (declared.name, declared.title, declared.models[0].size) == ("mine", "Mine", 8)
    assert declared.outside == {"digits": ("inverse",)}
    for change, message in (
        (("title", "titel"), "unknown key 'titel'"),
        (('inside = "digits"', 'inside = "digit"'), "no set 'digit'"),
        (('kind = "ood"', 'kind = "odd"'), "wanted one of ood"),
        (("size = 8", "sise = 8"), "unknown key 'sise'"),
        (('name = "net"', ""), "name"),
        (("[[models]]", "[[models"), "cannot be read as TOML"),
    ):
        path.write_text(text.replace(*change, 1), encoding="utf-8")
        with pytest.raises(InputError, match=re.escape(message)):
            read_declaration(path)


def test_narrowed_refuses_what_is_not_there() -> None:
    assert [m.name for m in narrowed(BUILTIN["ood"], models=["resnet20"]).models] == ["resnet20"]
    assert narrowed(BUILTIN["corruption"], sets=["haze"]).corruptions == ("haze",)
    with pytest.raises(InputError, match="no 'resnet21'"):
        narrowed(BUILTIN["ood"], models=["resnet21"])
    with pytest.raises(InputError, match="nearest"):
        run_study(narrowed(BUILTIN["ood"], methods=["purvew-one-hot"]))


def test_built_in_studies_hold_the_tutorials_rows() -> None:
    ood = BUILTIN["ood"]
    assert {"tiny-imagenet", "svhn", "lsun", "mnist", "omniglot", "textures", "gaussian-noise"} <= set(
        ood.outside["cifar10"]
    )
    assert {"cifar10", "tiny-imagenet", "lsun"} <= set(ood.outside["svhn"])
    assert set(ood.outside["mnist"]) == {"omniglot", "fashion-mnist", "cifar10-grey"}
    assert len(BUILTIN["adversarial"].attacks) == 6
    assert len(BUILTIN["corruption"].corruptions) == 8
    assert {"cifar10", "cure-tsr"} <= {m.inside for m in BUILTIN["corruption"].models}
    for declared in BUILTIN.values():
        assert set(declared.methods) <= set(METHODS)


# What is written


def test_written_results_are_escaped_and_complete(folder: Path, tmp_path: Path) -> None:
    declared = study(folder)
    hostile = replace(declared.models[0], name=HOSTILE)
    found = run(folder, tmp_path, replace(declared, models=(hostile,)))
    table, text, page = (
        path.read_text(encoding="utf-8")
        for path in write_results(found, tmp_path / "out", f"gradfast {HOSTILE}")
    )
    rows = list(csv.DictReader(table.splitlines()))
    assert {row["model"] for row in rows} == {HOSTILE}
    assert sum(row["metric"] == "auroc" for row in rows) == len(found.results)
    assert any(row["outside"] == "absent" and row["mean"] == "" for row in rows)
    assert "<img" not in page
    assert "<script" not in page
    assert "<img" not in text.replace(f"gradfast {HOSTILE}", "")  # the command is code
    assert "http" not in page.split("</header>")[0].replace("http-equiv", "")


def test_command_line_runs_a_declaration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    text = 'outside=["inverse"]\nmethods=["purview-all-ones","max-softmax"]\n[[models]]\nname="net"\nspec="nets.py:net"\nweights="net.safetensors"\ninside="digits"\nsize=8\nchannels=1\n[[sets]]\nname="digits"\n[[sets]]\nname="inverse"\n'
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    options = [
        "--root",
        ".",
        "--images",
        "40",
        "--splits",
        "2",
        "--cache",
        str(tmp_path / "cache"),
        "--no-progress",
    ]
    result = CliRunner().invoke(
        app, ["study", str(tmp_path / "mine.toml"), *options, "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "mine.html").is_file()
    bad = CliRunner().invoke(app, ["study", "odd", *options])
    assert bad.exit_code == 2


KILLED = """
kind = "adversarial"
attacks = ["fgsm", "pgd"]
methods = ["purview-all-ones", "purview-one-hot", "penultimate", "max-softmax", "mahalanobis"]
[[models]]
name = "net"
spec = "nets.py:net"
weights = "net.safetensors"
inside = "digits"
fit = "digits-train"
size = 8
channels = 1
[[sets]]
name = "digits"
[[sets]]
name = "digits-train"
"""


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_table_of_an_unbroken_run(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "killed.toml").write_text(KILLED, encoding="utf-8")

    def started(name: str) -> subprocess.Popen[bytes]:
        options = ["--images", "150", "--splits", "3", "--root", ".", "--no-progress"]
        command = [sys.executable, "-m", "gradfast", "study", str(tmp_path / "killed.toml"), *options]
        places = ["--cache", str(tmp_path / name / "cache"), "-o", str(tmp_path / name / "out")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([*command, *places], cwd=folder, env=environment, stderr=subprocess.DEVNULL)

    def kept(name: str) -> dict[str, bytes]:
        """Finished files of the cache by name, with what is in them."""
        files = (path for path in (tmp_path / name / "cache").rglob("*") if path.is_file())
        return {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in files
            if path.suffix in (".npz", ".parquet") and not path.name.startswith(".")
        }

    assert started("unbroken").wait(300) == 0
    wanted = kept("unbroken")
    assert len(wanted) > 20
    kills = 0
    for more in (1, 2, 4, 7, 10):  # killed so many files after where the last run was killed
        before, program = len(kept("killed")), started("killed")
        while program.poll() is None and len(kept("killed")) < before + more:
            time.sleep(0.002)
        program.kill()
        kills += program.wait(60) == -signal.SIGKILL
        assert not (tmp_path / "killed" / "out" / "killed.csv").exists() or program.returncode == 0
    assert kills >= 3
    assert started("killed").wait(300) == 0
    assert kept("killed") == wanted  # nothing is lost, nothing is there twice
    table = Path("out", "killed.csv")
    rows = (tmp_path / "killed" / table).read_text(encoding="utf-8")
    assert rows == (tmp_path / "unbroken" / table).read_text(encoding="utf-8")
    cells = [tuple(row[key] for key in CELL) for row in csv.DictReader(rows.splitlines())]
    assert len(set(cells)) == len(cells)
    assert len(cells) > 20


CELL = ("model", "outside", "level", "protocol", "method", "metric")


@pytest.mark.shared
def test_sixty_real_images(shared: Path, tmp_path: Path) -> None:
    declared = narrowed(
        BUILTIN["ood"],
        models=["resnet20"],
        sets=["tiny-imagenet", "svhn"],
        methods=["purview-all-ones", "max-softmax"],
    )
    found = run_study(declared, Profile(60, 60, 2), Settings(roots=(shared,), cache=tmp_path))
    (ours,) = found.chosen(method="purview-all-ones", protocol=SAME_SET)
    assert ours.outside == "tiny-imagenet"
    assert ours.paper["auroc"] == 0.9318
    assert ours.auroc > 0.6
    assert any(b.outside == "svhn" and "SVHN" in b.why for b in found.blanks)
    assert (
        "quality 75" not in dict(found.facts)["resnet20, tiny-imagenet"]
    )  # its files are of that quality already
