"""Studies: what is split, kept, left blank and written; on digits and a network of two layers."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn
from typer.testing import CliRunner, Result

from gradfast.cli import app
from gradfast.data import Preprocess
from gradfast.errors import InputError
from gradfast.models.weights import preprocess_header
from gradfast.studies import (
    BUILTIN,
    METHODS,
    ModelEntry,
    Profile,
    SetEntry,
    Settings,
    Study,
    corruption,
    narrowed,
    read_declaration,
    run_study,
)
from gradfast.studies import SETS as SETS_OF_TUTORIAL
from gradfast.studies.images import Images
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, StudyResult
from gradfast.studies.scorers import BestColumn
from gradfast.studies.tables import summary_tables
from gradfast.studies.verdict import verdict
from gradfast.studies.workbench import Bench, open_subject
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


@pytest.mark.parametrize("kind", ["ood", "corruption", "adversarial"])
def test_methods_that_read_no_norms_have_a_table_without_a_figure_of_norms(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    found = run(folder, tmp_path, study(folder, kind, methods=("max-softmax", "energy")))
    assert {r.method for r in found.results} == {"max-softmax", "energy"}
    assert found.norms == []
    write_results(found, tmp_path / "out")
    assert "layer by layer" not in (tmp_path / "out" / "small.html").read_text(encoding="utf-8")


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


def test_published_corruptions_are_paired_with_their_clean_versions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    for i in range(40):  # a level that changes nothing
        clean = next((root / "ChallengeFree").glob(f"*_{i:04d}.bmp"))
        (root / "Noise-1" / clean.name.replace("_00_00_", "_08_01_")).write_bytes(clean.read_bytes())
    seen: list[Images] = []
    keep = corruption.group_of
    monkeypatch.setattr(
        corruption, "group_of", lambda images, columns: seen.append(images) or keep(images, columns)
    )
    settings = Settings(roots=(folder, tmp_path), cache=tmp_path / "compressed", jpeg=40)
    run_study(replace(declared, levels=(1,)), Profile(40, 10, 2), settings)
    known, same = seen[:2]
    assert same.name == "noise 1"
    np.testing.assert_array_equal(known.pixels, same.pixels)  # as many JPEG passes
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


BESIDE = """
outside = ["inverse"]
methods = ["purview_all_ones", "max-softmax"]
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


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, arguments), "--no-progress"])


def test_what_lies_beside_the_declaration_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, weights and sets, from another working directory; methods in either spelling."""
    for name in ("nets.py", "net.safetensors", "digits.npz", "inverse.npz"):
        (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "there" / "mine.toml").write_text(BESIDE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ("--images", 20, "--splits", 1)
    result = command("there/mine.toml", *options)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "study-mine" / "mine.html").is_file()
    assert "max-softmax" in (tmp_path / "study-mine" / "mine.csv").read_text()
    (tmp_path / "there" / "nets.py").unlink()
    lost = command("there/mine.toml", *options)
    assert lost.exit_code == 2
    assert "there is no nets.py: looked in the working directory, there" in lost.stderr


def test_weights_that_say_mean_and_std_are_believed_unless_the_model_declares_its_own(
    folder: Path, tmp_path: Path
) -> None:
    header = preprocess_header(Preprocess(8, 1, 0.25, 0.5))
    save_file(load_file(folder / "net.safetensors"), tmp_path / "told.safetensors", header)
    (entry,) = study(folder).models
    for changed, mean in (({}, (0.25,)), ({"mean": (0.1,), "std": (0.3,)}, (0.1,))):
        told = replace(entry, weights=str(tmp_path / "told.safetensors"), **changed)
        declared = study(folder, models=(told,))
        profile, settings = Profile(8, 8, 1), Settings(roots=(folder,), cache=tmp_path / "cache")
        bench = Bench(declared, profile, settings, StudyResult(declared, "own", profile))
        subject = open_subject(bench, told)
        assert subject is not None
        assert subject.reader.entry.mean == mean


def test_a_study_without_data_measures_nothing_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("ood")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not (tmp_path / "study-ood").exists()
    said = " ".join(result.stderr.split())
    assert (
        said.count("the images of cifar10 are not on disk: no cifar10-test.parquet or torchvision:CIFAR10")
        == 1
    )
    assert "in data; give --data cifar10=PATH" in said
    assert "not in the profile quick (--profile full)" in said
    assert "gradfast: error: study: nothing of ood was measured" in said


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
