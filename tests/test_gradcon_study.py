"""The one-class study: cells that go on, tables beside the paper, conditions, baselines, the command line."""

from __future__ import annotations

import csv
import gzip
import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gradfast.cli.app import app
from gradfast.errors import InputError
from gradfast.gradcon.checkpoint import read_checkpoint
from gradfast.gradcon.study.baselines import PADIM, run_baseline
from gradfast.gradcon.study.cells import Cell, make_model, run_cell
from gradfast.gradcon.study.conditions import condition_table, run_conditions
from gradfast.gradcon.study.data import ClassImages, OneClass, digits, from_spec, split_off
from gradfast.gradcon.study.padim import PatchGaussian
from gradfast.gradcon.study.run import PROFILES, collect, draw, run, write
from gradfast.gradcon.study.tables import PAPER, class_table, summarise
from gradfast.gradcon.training import TrainingSettings, split_rows
from gradfast.models.cifar_resnet import resnet20
from gradfast.report.directory import write_directory_page


@pytest.fixture(scope="module")
def tiny() -> OneClass:
    """Two classes of colour images, 28 x 28: dark and bright ones."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    noise = torch.randint(0, 90, (64, 3, 28, 28), generator=generator)
    images = (noise + 140 * labels[:, None, None, None]).byte()
    train, test = split_off(ClassImages(images, labels), 0.5)
    return OneClass("Tiny", train, test, ("dark", "bright"), "Sixty-four images.")


def test_a_cell_goes_on_and_is_read_again(tiny: OneClass, tmp_path: Path) -> None:
    cell = Cell("tiny", 0, "CAE+Grad", 0)
    first = run_cell(cell, tiny, tmp_path, 1)
    second = run_cell(cell, tiny, tmp_path, 2)
    assert (first["epochs"], second["epochs"]) == (1, 2)
    assert len(second["history"]) == 2
    assert second["history"][0] == first["history"][0]
    assert run_cell(cell, tiny, tmp_path, 2) == second
    assert set(second["last"]) == {
        "reconstruction", "gradient", "gradient, standardised", "gradient, reference refreshed", "combined"
    }  # fmt: skip
    assert all(0 <= v <= 1 for v in second["last"].values())
    found = collect(tiny, tmp_path)
    assert [r["epochs"] for r in found] == [2]


def test_a_kept_cell_is_not_that_of_other_settings(tiny: OneClass, tmp_path: Path) -> None:
    cell = Cell("tiny", 0, "CAE+Grad", 0)
    run_cell(cell, tiny, tmp_path, 2, batch_size=8)
    with pytest.raises(InputError, match=r"epochs: got 1; .* trained for 2"):
        run_cell(cell, tiny, tmp_path, 1, batch_size=8)
    with pytest.raises(InputError, match="with batch_size 8; this one has 4"):
        run_cell(cell, tiny, tmp_path, 2, batch_size=4)
    with pytest.raises(InputError, match="with init torch; this one has he"):
        run_cell(cell, tiny, tmp_path, 2, batch_size=8, init="he")
    with pytest.raises(InputError, match="with reference total; this one has direction"):
        run_cell(cell, tiny, tmp_path, 2, batch_size=8, reference="direction")
    kept = tmp_path / cell.folder / "result-2.json"  # one of a version without the choice
    kept.write_text(json.dumps({k: v for k, v in json.loads(kept.read_text()).items() if k != "reference"}))
    with pytest.raises(InputError, match="with reference total; this one has direction"):
        run_cell(cell, tiny, tmp_path, 2, batch_size=8, reference="direction")
    run_cell(cell, tiny, tmp_path, 2, batch_size=8)
    with pytest.raises(InputError, match=r"holds a training with init torch; this one has he"):
        run_cell(cell, tiny, tmp_path, 3, batch_size=8, init="he")
    with pytest.raises(InputError, match="with train_images 14; this one has 9"):
        run_cell(cell, tiny, tmp_path, 2, batch_size=8, limit=10)
    other = replace(tiny, test=ClassImages(255 - tiny.test.images, tiny.test.labels))
    with pytest.raises(InputError, match="with sums"):
        run_cell(cell, other, tmp_path, 2, batch_size=8)
    forest = Cell("tiny", 0, "isolation forest", 0)
    run_baseline(forest, tiny, tmp_path)
    with pytest.raises(InputError, match="with train_images 16; this one has 10"):
        run_baseline(forest, tiny, tmp_path, limit=10)


def test_run_and_write(tiny: OneClass, tmp_path: Path) -> None:
    profile = replace(
        PROFILES["quick"], epochs=1, models=("CAE",), seeds=(0, 1), baselines=("isolation forest",)
    )
    profile = replace(profile, conditions=False, batch_size=8)
    heard: list[str] = []
    results = run(tiny, profile, tmp_path, tell=heard.append)
    assert len(results) == len(heard) == 8
    table, figures = write(tiny, results, tmp_path, tmp_path / "out", "gradfast gradcon study")
    text = table.read_text()
    assert "| CAE | reconstruction |" in text
    assert "| isolation forest | on pixels |" in text
    assert "epochs 1, batches of 8" in text
    assert "initial weights" not in text
    assert "±" in text
    rows = list(csv.DictReader(figures.open()))
    mean = summarise(results, ("CAE", "reconstruction"), None)
    assert mean is not None
    mine = [
        float(r["auroc"])
        for r in rows
        if r["model"] == "CAE" and r["score"] == "reconstruction" and r["at"] == "last"
    ]
    assert len(mine) == 4
    assert abs(np.mean(mine) - mean[0]) < 1e-4


def test_the_initial_weights_are_said(tiny: OneClass, tmp_path: Path) -> None:
    profile = replace(PROFILES["quick"], epochs=1, models=("CAE",), baselines=(), conditions=False, init="he")
    he = run(tiny, profile, tmp_path / "he")
    plain = run(tiny, replace(profile, init="torch"), tmp_path / "torch")
    assert he[0]["history"] != plain[0]["history"]
    text = write(tiny, he, tmp_path / "he", tmp_path / "out")[0].read_text()
    assert "seeds 0; He's initial weights." in text


def test_another_reference_is_said(tiny: OneClass, tmp_path: Path) -> None:
    profile = replace(PROFILES["quick"], epochs=2, models=("CAE+Grad",), baselines=(), conditions=False)
    profile = replace(profile, batch_size=8, reference="direction")
    directions = run(tiny, profile, tmp_path / "direction")
    total = run(tiny, replace(profile, reference="total"), tmp_path / "total")
    assert directions[0]["history"] != total[0]["history"]
    text = write(tiny, directions, tmp_path / "direction", tmp_path / "out")[0].read_text()
    assert "mean of the gradients scaled to length one. Not the paper's." in text
    assert (
        "scaled to length one" not in write(tiny, total, tmp_path / "total", tmp_path / "out")[0].read_text()
    )


def test_figures_of_the_first_constrained_model(tiny: OneClass, tmp_path: Path) -> None:
    result = run_cell(Cell("tiny", 1, "CAE+Grad", 0), tiny, tmp_path, 1)
    plain = {**result, "model": "CAE"}
    files = draw(tiny, [plain, result], tmp_path, tmp_path / "out")
    assert [f.name for f in files][:2] == [
        "gradcon-tiny-bright-reconstructions.png",
        "gradcon-tiny-bright-heatmap.png",
    ]
    assert all(f.stat().st_size > 0 for f in files)
    assert draw(tiny, [plain], tmp_path, tmp_path / "out") == []
    assert draw(tiny, [{**result, "seed": 5}], tmp_path, tmp_path / "out") == []  # its model is not there


def test_table_stands_beside_the_paper_and_leaves_blanks() -> None:
    results = [
        {
            "data": "c",
            "class": i,
            "model": "CAE+Grad",
            "seed": 0,
            "epochs": 1,
            "last": {"gradient": 0.5},
            "best": {"gradient": 0.25},
        }
        for i in range(10)
        if i != 3
    ]
    lines = class_table(results, [str(i) for i in range(10)], paper=True).splitlines()
    assert lines[2].startswith("| CAE+Grad | gradient | 0.500 |")
    assert lines[3].startswith("| | *paper* | *0.752* |")
    assert lines[2].endswith("| **0.500** | 0.250 |")
    assert lines[3].endswith("*0.661* | |")
    half = [*results, {**results[0], "class": 3, "model": "VAE", "last": {"latent": 0.1}}]
    assert class_table(half, [str(i) for i in range(10)]).splitlines()[2].endswith("| 0.500 |  |  |")


def test_the_papers_averages_are_those_of_its_classes() -> None:
    for row, figures in PAPER.items():
        assert len(figures) == 11
        assert abs(np.mean(figures[:10]) - figures[10]) < 0.0011, row


def test_baseline_tells_dark_from_bright(tiny: OneClass, tmp_path: Path) -> None:
    found = run_baseline(Cell("tiny", 0, "isolation forest", 0), tiny, tmp_path)
    assert found["last"]["on pixels"] > 0.9


def test_patch_gaussian_is_the_largest_mahalanobis_distance_over_positions() -> None:
    torch.manual_seed(0)
    network = resnet20()
    images = torch.randint(0, 256, (9, 1, 28, 28)).byte()
    normal, other = images[:7], images[7:]
    found = PatchGaussian(network, normal, dimensions=5, seed=3, batch_size=3)(other)

    def features(x: torch.Tensor) -> np.ndarray:
        x = (x.float() / 255).expand(-1, 3, -1, -1)
        with torch.no_grad():
            first = network.layer1(torch.relu(network.bn1(network.conv1(x))))
            second = network.layer2(first)
            third = network.layer3(second)
        kept = torch.randperm(112, generator=torch.Generator().manual_seed(3))[:5]
        parts = [
            torch.nn.functional.avg_pool2d(first, 2),
            second,
            third.repeat_interleave(2, 2).repeat_interleave(2, 3),
        ]
        return torch.cat(parts, 1)[:, kept].flatten(2).double().numpy()

    a, b = features(normal), features(other)
    wanted = np.zeros((2, a.shape[2]))
    for position in range(a.shape[2]):
        precision = np.linalg.inv(np.cov(a[:, :, position].T) + 0.01 * np.eye(5))
        off = b[:, :, position] - a[:, :, position].mean(0)
        wanted[:, position] = np.sqrt(np.einsum("ni,ij,nj->n", off, precision, off))
    np.testing.assert_allclose(found, wanted.max(1), rtol=1e-5)  # of float32 features


def test_patch_gaussian_says_what_it_wants(tiny: OneClass, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no layer1, layer2, layer3"):
        PatchGaussian(torch.nn.Linear(2, 2), tiny.train.images)
    with pytest.raises(InputError, match="got 1 images"):
        PatchGaussian(resnet20(), tiny.train.images[:1])
    with pytest.raises(InputError, match="wanted a network for PaDiM-like"):
        run_baseline(Cell("tiny", 0, PADIM, 0), tiny, tmp_path)
    profile = replace(PROFILES["quick"], models=(), baselines=(), conditions=False)
    results = run(tiny, profile, tmp_path, features=resnet20())
    assert [r["last"]["on features"] > 0.9 for r in results] == [True, True]  # dark from bright
    assert "`--features`" in write(tiny, results, tmp_path, tmp_path / "out")[0].read_text()


@pytest.mark.slow
def test_deep_svdd(tiny: OneClass, tmp_path: Path) -> None:
    pytest.importorskip("pyod")
    found = run_baseline(Cell("tiny", 0, "Deep SVDD", 0), tiny, tmp_path)
    assert 0 <= found["last"]["on pixels"] <= 1


def test_conditions(tiny: OneClass, tmp_path: Path) -> None:
    cell = Cell("tiny", 0, "CAE+Grad", 0)
    run_cell(cell, tiny, tmp_path, 1)
    found = run_conditions(
        cell, tiny, tmp_path, images=8, names=("noise",) if "noise" in _corruptions() else _corruptions()[:1]
    )
    (areas,) = found["auroc"].values()
    assert len(areas["gradient"]) == 5
    assert run_conditions(cell, tiny, tmp_path, images=8) == found
    run_cell(cell, tiny, tmp_path, 2)
    again = run_conditions(cell, tiny, tmp_path, images=8, names=_corruptions()[:1])
    assert (found["epochs"], again["epochs"]) == (1, 2)
    table = condition_table([found])
    assert [line.split(" | ")[2] for line in table.splitlines()[2:]] == [
        "reconstruction",
        "gradient",
        "standardised",
    ]
    held_out, rows = split_rows(len(tiny.normal(0)), TrainingSettings())
    assert len(held_out) == 2
    assert sorted([*held_out, *rows]) == list(range(len(tiny.normal(0))))


def test_idx_files_as_debian_ships_them(tmp_path: Path) -> None:
    for part, n in (("train", 6), ("t10k", 4)):
        images = np.arange(n * 28 * 28, dtype=np.uint8).reshape(n, 28, 28)
        labels = (np.arange(n) % 2).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    data = from_spec("Fashion-MNIST", str(tmp_path), str(tmp_path), channels=1)
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.classes[0] == "T-shirt"
    assert torch.equal(data.train.images[1, 0], torch.arange(784, 1568).byte().view(28, 28))


def test_digits_are_split_by_class() -> None:
    data = digits()
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert len(data.train) + len(data.test) == 1797
    inside, outside = data.tested(4)
    assert len(inside) == len(outside)


def test_bad_input(tiny: OneClass, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a class with no images"):
        tiny.normal(5)
    with pytest.raises(InputError, match="model: got 'AE'"):
        make_model("AE", 1, 0)
    with pytest.raises(InputError, match="nothing of Tiny has been run"):
        write(tiny, [], tmp_path, tmp_path)
    with pytest.raises(InputError, match="there is no"):
        from_spec("x", str(tmp_path / "absent.parquet"), None, channels=1)


def test_command_line(tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = [
        "gradcon",
        "train",
        "digits",
        "-o",
        str(tmp_path / "t"),
        "--epochs",
        "1",
        "--no-progress",
        "--limit",
        "40",
    ]
    trained = runner.invoke(app, arguments)
    assert trained.exit_code == 0, trained.output
    assert "AUROC on 36 normal" in trained.output
    for name in (
        "last.safetensors",
        "reconstructions.png",
        "heatmap.png",
        "histograms.svg",
        "roc.svg",
        "training.svg",
    ):
        assert (tmp_path / "t" / name).stat().st_size > 0
    epochs = list(csv.DictReader((tmp_path / "t" / "metrics.csv").open()))
    assert [row["epoch"] for row in epochs] == ["1"]
    page = write_directory_page(tmp_path / "t", tmp_path / "t.html").read_text()
    areas = re.findall(r"^  (\w+) +([\d.]+)$", trained.output, re.MULTILINE)
    assert dict(areas).keys() >= {"reconstruction", "gradient", "combined"}
    for name, area in areas:  # the page's table gives what the command said
        assert re.search(rf">{name}</td>.*>{area}</td></tr>", page)
    scored = runner.invoke(
        app,
        [
            "gradcon",
            "score",
            str(tmp_path / "t" / "last.safetensors"),
            "digits",
            "-o",
            str(tmp_path / "s.csv"),
            "--limit",
            "30",
            "--normal",
            "digits",
        ],
    )
    assert scored.exit_code == 0, scored.output
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(rows) == 30
    columns = {"reconstruction", "gradient", "standardised", "combined", "flagged", "cosine decoder.0.weight"}
    assert columns <= set(rows[0])
    wrong = runner.invoke(app, ["gradcon", "study", "digits", "--model", "AE", "-o", str(tmp_path / "w")])
    assert wrong.exit_code == 2


def test_command_line_takes_the_constraint_on_each_image_and_a_reference_of_directions(
    tmp_path: Path,
) -> None:
    runner, small = CliRunner(), ["--limit", "40", "--epochs", "1", "--no-plots", "--reference", "direction"]
    trained = runner.invoke(
        app, ["gradcon", "train", "digits", "-o", str(tmp_path / "t"), *small, "--per-image", "--no-progress"]
    )
    assert trained.exit_code == 0, trained.output
    settings = read_checkpoint(tmp_path / "t" / "last.safetensors").facts["settings"]
    assert (settings["reference"], settings["per_image"]) == ("direction", True)
    ran = runner.invoke(
        app,
        ["gradcon", "study", "digits", "--label", "0", "--model", "CAE+Grad per image", *small, "-o", str(tmp_path)],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "gradcon-digits.md").read_text()
    assert "each image's gradient" in text
    assert "scaled to length one" in text


def test_command_line_shows_averages_that_fit_a_terminal(tmp_path: Path) -> None:
    small = ["--epochs", "1", "--limit", "40", "--label", "0", "--label", "1", "--model", "CAE", "--no-plots"]
    ran = CliRunner().invoke(app, ["gradcon", "study", "digits", *small, "-o", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    shown = next(line for line in ran.output.splitlines() if line.strip().startswith("CAE  "))
    written = next(
        line
        for line in (tmp_path / "gradcon-digits.md").read_text().splitlines()
        if line.startswith("| CAE |")
    )
    assert shown.split()[1:] == ["reconstruction", written.split("**")[1]]
    assert str(tmp_path / "gradcon-digits.csv") in ran.output.splitlines()


def _corruptions() -> tuple[str, ...]:
    from gradfast.corruptions import CORRUPTIONS

    return tuple(CORRUPTIONS)
