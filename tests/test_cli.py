"""The command line, as a user types it: extract, detect fit, score, report; and how it answers mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from gradfast.cli import app
from gradfast.cli.detection import fit_and_test
from gradfast.detectors import Purview, evaluate
from gradfast.detectors.evaluation import ALL_SETS, LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome, halves
from gradfast.features import Features

MODEL = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)
    )
"""


def gradfast(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    result = gradfast(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def error(*arguments: object) -> str:
    """The one line on standard error of a command that ends with exit code 2."""
    result = gradfast(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("gradfast: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, three sets of images, and the features of each: dim (in), bright and striped (out)."""
    here = tmp_path_factory.mktemp("cli")
    (here / "model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), 4)[None, None, :, None]
    images = {
        "dim": rng.integers(0, 120, (80, 8, 8, 3)),
        "bright": rng.integers(60, 256, (60, 8, 8, 3)),
        "striped": rng.integers(0, 60, (60, 8, 8, 3)) // 2 + stripes // 2,
    }
    for name, pixels in images.items():
        np.savez(here / f"{name}.npz", images=pixels.astype(np.uint8), labels=np.arange(len(pixels)) % 5)
        output = run(
            "extract", f"{here / 'model.py'}:build", here / f"{name}.npz", "-o", here / name, "--no-progress"
        )
        assert f"{len(pixels)} samples x 5 contrast rows x 4 layers" in output
    return here


@pytest.fixture(scope="module")
def detector(here: Path) -> Path:
    run("detect", "fit", here / "dim", here / "bright", here / "striped", "-o", here / "detector")
    return here / "detector"


class TestExtract:
    def test_options_reach_the_extractor(self, here: Path, tmp_path: Path) -> None:
        (tmp_path / "images" / "a").mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 12), (40 * i, 0, 0)).save(tmp_path / "images" / "a" / f"{i}.png")
        run(
            "extract", f"{here / 'model.py'}:build", tmp_path / "images", "-o", tmp_path / "f", "--no-progress",
            "--contrast", "one-hot", "--loss", "bce", "--classes", "0,3", "--layers", "*.weight", "--dtype", "bfloat16",
            "--batch-size", 4, "--size", "8,8", "--mean", "0.5", "--std", "0.2,0.3,0.4", "--jpeg-quality", 75,
            "--limit", 5, "--memory-budget", "1GB",
        )  # fmt: skip
        features = Features.load(tmp_path / "f")
        assert features.shape == (5, 2, 2)
        assert features.layers == ("0.weight", "3.weight")
        settings = features.settings
        assert [settings[key] for key in ("contrast", "loss", "dtype")] == ["one-hot", "bce", "bfloat16"]
        assert list(settings["classes"]) == [0, 3]
        assert settings["source"]["preprocess"] == {
            "size": [8, 8], "channels": 3, "mean": [0.5] * 3, "std": [0.2, 0.3, 0.4], "jpeg_quality": 75,
        }  # fmt: skip

    def test_top_k(self, here: Path, tmp_path: Path) -> None:
        run(
            "extract",
            f"{here / 'model.py'}:build",
            here / "dim.npz",
            "-o",
            tmp_path / "f",
            "--top-k",
            2,
            "--no-progress",
        )
        features = Features.load(tmp_path / "f")
        assert features.shape == (80, 2, 4)
        assert features.classes is not None
        np.testing.assert_array_equal(features.classes[:, 0], features.predictions)

    def test_started_again_with_other_settings_it_refuses(self, here: Path) -> None:
        line = error(
            "extract",
            f"{here / 'model.py'}:build",
            here / "dim.npz",
            "-o",
            here / "dim",
            "--contrast",
            "all-ones",
        )
        assert "contrast" in line


class TestFit:
    def test_report_results_and_detector(self, here: Path, detector: Path) -> None:
        assert sorted(path.name for path in detector.iterdir()) == [
            "classifier.skops",
            "detector.json",
            "evaluation.csv",
            "evaluation.parquet",
            "report.html",
        ]
        html = (detector / "report.html").read_text("utf-8")
        assert "dim against bright, striped" in html
        assert "Outliers of every kind seen" in html
        assert "Tested kind never seen" in html
        assert json.loads((detector / "detector.json").read_text())["schema"]["layers"] == [
            "0.weight", "0.bias", "3.weight", "3.bias",
        ]  # fmt: skip

    def test_the_saved_detector_is_the_one_that_was_tested(self, here: Path, tmp_path: Path) -> None:
        study = fit_and_test(here / "dim", [here / "bright"], tmp_path / "d", seed=3, test_fraction=0.4)
        inside, outside = Features.load(here / "dim"), Features.load(here / "bright")
        saved = Purview.load(tmp_path / "d")
        scores = [saved.score(f[halves(len(f), 0.4, 3)[1]]) for f in (inside, outside)]
        purview, softmax = study.outcomes
        assert (purview.protocol, softmax.protocol) == (SAME_SET, NO_OUTLIERS)
        assert purview.mean == evaluate(*scores)
        assert purview.mean.auroc > 0.8

    def test_protocols_of_several_sets(self, here: Path, tmp_path: Path) -> None:
        study = fit_and_test(here / "dim", [here / "bright", here / "striped"], tmp_path / "d", splits=2)
        assert {(o.out_set, o.protocol) for o in study.outcomes} == {
            (name, protocol)
            for name in ("bright", "striped")
            for protocol in (ALL_SETS, LEFT_OUT, NO_OUTLIERS)
        }
        assert all(len(o.splits) == 2 for o in study.outcomes)

    def test_layers_and_head(self, here: Path, tmp_path: Path) -> None:
        output = run(
            "detect", "fit", here / "dim", here / "bright", "-o", tmp_path / "d",
            "--head", "mlp", "--layers", "*.weight", "--seed", 1,
        )  # fmt: skip
        assert "AUROC" in output
        assert "maximum softmax" in output
        saved = Purview.load(tmp_path / "d")
        assert saved.head == "mlp"
        assert saved.schema_.layers == ("0.weight", "3.weight")
        run("detect", "score", tmp_path / "d", here / "bright")  # picks those layers out of the features

    def test_mistakes(self, here: Path, detector: Path, tmp_path: Path) -> None:
        fit = ("detect", "fit", here / "dim")
        assert "already holds a saved detector" in error(*fit, here / "bright", "-o", detector)
        assert "test_fraction: got 1.5" in error(
            *fit, here / "bright", "-o", tmp_path / "d", "--test-fraction", 1.5
        )
        assert "the same one twice" in error(*fit, here / "dim", "-o", tmp_path / "d")
        assert str(tmp_path / "none") in error(*fit, tmp_path / "none", "-o", tmp_path / "d")
        assert "nope" in error(*fit, here / "bright", "-o", tmp_path / "d", "--layers", "nope")
        assert not (tmp_path / "d").exists()

    def test_sets_of_other_models_or_contrasts_are_refused(self, here: Path, tmp_path: Path) -> None:
        (tmp_path / "other.py").write_text(MODEL.replace("manual_seed(0)", "manual_seed(1)"))
        run(
            "extract",
            f"{tmp_path / 'other.py'}:build",
            here / "bright.npz",
            "-o",
            tmp_path / "f",
            "--no-progress",
        )
        line = error("detect", "fit", here / "dim", tmp_path / "f", "-o", tmp_path / "d")
        assert "model fingerprint" in line
        assert str(tmp_path / "f") in line

    def test_images_prepared_in_another_way_are_warned_of(self, here: Path, tmp_path: Path) -> None:
        run(
            "extract", f"{here / 'model.py'}:build", here / "bright.npz", "-o", tmp_path / "f", "--no-progress",
            "--mean", 0.5,
        )  # fmt: skip
        result = gradfast("detect", "fit", here / "dim", tmp_path / "f", "-o", tmp_path / "d")
        assert result.exit_code == 0
        assert "prepared in another way" in result.stderr
        assert "mean [0.5, 0.5, 0.5], not None" in result.stderr


class TestScore:
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_table(self, here: Path, detector: Path, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"scores{suffix}"
        output = run("detect", "score", detector, here / "bright", "-o", path)
        table = pyarrow.csv.read_csv(path) if suffix == ".csv" else pyarrow.parquet.read_table(path)
        saved, features = Purview.load(detector), Features.load(here / "bright")
        np.testing.assert_allclose(table["score"].to_numpy(), saved.score(features), rtol=1e-12)
        assert table["out"].to_pylist() == saved.predict(features).astype(bool).tolist()
        assert table["index"].to_pylist() == list(range(60))
        assert table["label"].to_pylist() == features.labels.tolist()
        assert f"{sum(table['out'].to_pylist())} of 60 samples" in output
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_images_prepared_in_another_way_than_those_of_the_fit_are_warned_of(
        self, here: Path, detector: Path, tmp_path: Path
    ) -> None:
        run(
            "extract", f"{here / 'model.py'}:build", here / "dim.npz", "-o", tmp_path / "f", "--no-progress",
            "--mean", 0.5,
        )  # fmt: skip
        page = ("-o", tmp_path / "page.html")
        for command in (
            ("score", detector, tmp_path / "f"),
            ("report", detector, tmp_path / "f", here / "bright", *page),
        ):
            result = gradfast("detect", *command)
            assert result.exit_code == 0
            assert "than what the detector was fitted to (mean [0.5, 0.5, 0.5], not None)" in result.stderr
        assert gradfast("detect", "score", detector, here / "dim").stderr == ""

    def test_flagged_samples_have_no_score_and_count_as_out(
        self, here: Path, detector: Path, tmp_path: Path
    ) -> None:
        features = Features.load(here / "dim")
        values = features.values.copy()
        values[3] = np.nan
        spoiled = Features.from_arrays(
            values,
            layers=features.layers,
            logits=features.logits,
            classes=features.classes,
            settings=features.settings,
        )
        spoiled.save(tmp_path / "f")
        output = run("detect", "score", detector, tmp_path / "f", "-o", tmp_path / "s.parquet")
        assert "1 of them are flagged" in output
        row = pyarrow.parquet.read_table(tmp_path / "s.parquet").slice(3, 1).to_pylist()[0]
        assert (row["score"], row["out"], row["flagged"]) == (None, True, True)

    def test_mistakes(self, here: Path, detector: Path, tmp_path: Path) -> None:
        assert "wanted a name that ends in .csv or .parquet" in error(
            "detect", "score", detector, here / "dim", "-o", tmp_path / "scores.xlsx"
        )
        assert "holds no saved detector" in error("detect", "score", here, here / "dim")
        broken = shutil.copytree(detector, tmp_path / "broken")
        (broken / "classifier.skops").write_bytes(b"")
        assert "damaged" in error("detect", "score", broken, here / "dim")


def test_report_on_a_saved_detector(here: Path, detector: Path, tmp_path: Path) -> None:
    output = run("detect", "report", detector, here / "dim", here / "bright", "-o", tmp_path / "r.html")
    assert "The detector as saved" in output
    assert "too good" in (tmp_path / "r.html").read_text("utf-8")


class TestEnds:
    def test_one_line_unless_debug(self, here: Path, tmp_path: Path) -> None:
        arguments = ("extract", "nothing", here / "dim.npz", "-o", tmp_path / "f")
        assert "model: got 'nothing'" in error(*arguments)
        debugged = gradfast("--debug", *arguments)
        assert debugged.exit_code == 1
        assert debugged.exception is not None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--classes", "0,x"), "--classes: got '0,x'"),
            (("--classes", "0", "--top-k", 2), "--classes and --top-k"),
            (("--classes", "9"), "classes"),
            (("--mean", "a"), "--mean: got 'a'"),
            (("--std", "0"), "std"),
            (("--layers", "3.weihgt"), "3.weight"),
            (("--memory-budget", "much"), "memory_budget"),
        ],
    )
    def test_options_of_extract(
        self, here: Path, tmp_path: Path, options: tuple[object, ...], message: str
    ) -> None:
        line = error(
            "extract",
            f"{here / 'model.py'}:build",
            here / "dim.npz",
            "-o",
            tmp_path / "f",
            "--no-progress",
            *options,
        )
        assert message in line

    def test_usage_errors_name_the_option(self) -> None:
        result = gradfast("detect", "fit", "a", "b", "-o", "c", "--head", "svm")
        assert result.exit_code == 2
        assert "--head" in result.stderr

    def test_help_of_every_command(self) -> None:
        for command in (
            [],
            ["demo"],
            ["extract"],
            ["detect"],
            ["detect", "fit"],
            ["detect", "score"],
            ["info"],
        ):
            assert "Usage" in run(*command, "--help")

    def test_help_imports_nothing_heavy(self) -> None:
        heavy = ("sklearn", "pandas", "pyarrow", "matplotlib", "torchvision", "scipy")
        code = f"import sys, gradfast.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_version_and_info(self) -> None:
        from gradfast.version import __version__

        assert run("--version").strip() == __version__
        assert json.loads(run("info", "--json"))["versions"]["gradfast"] == __version__
        assert "instruction set" in run("info")


def test_demo_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradfast.demo
    from gradfast.demo import DemoResult

    def quick(out: Path, *, seed: int, say: Callable[[str], None]) -> DemoResult:
        say(f"seed {seed}")
        scores = np.arange(4.0), np.arange(4.0) + 2
        found = Outcome("maximum softmax", "textures", NO_OUTLIERS, (evaluate(*scores),), *scores)
        return DemoResult((found,), out / "report.html", 1.0, 2.0)

    monkeypatch.setattr(gradfast.demo, "run_demo", quick)  # the whole of it runs in test_demo.py
    output = run("demo", "--out", tmp_path, "--seed", 7)
    assert "seed 7" in output
    assert "0.875" in output
    assert str(tmp_path / "report.html") in output


@pytest.mark.shared
@pytest.mark.slow
def test_cifar10_against_tiny_imagenet(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    for name in ("cifar10-test", "tiny-imagenet-32-val"):
        run(
            "extract", "cifar_resnet20", data / f"{name}.parquet", "-o", tmp_path / name, "--contrast", "all-ones",
            "--weights", data / "cifar10-resnet20.safetensors", "--limit", 800, "--no-progress",
            "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225",
        )  # fmt: skip
    study = fit_and_test(
        tmp_path / "cifar10-test", [tmp_path / "tiny-imagenet-32-val"], tmp_path / "detector", splits=5
    )
    purview, softmax = (outcome.mean.auroc for outcome in study.outcomes)
    # A loop of plain autograd over as many images gave 0.933 and 0.770.
    assert 0.91 < purview < 0.96
    assert 0.74 < softmax < 0.81


@pytest.mark.parametrize(
    "arguments", [["--help"], ["extract", "--help"], ["gradcon", "train", "--help"], ["--version"]]
)
def test_help_does_not_wait_for_torch(tmp_path: Path, arguments: list[str]) -> None:
    script = tmp_path / "gradfast"  # the console script's name
    script.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('heavy:', sorted({'torch', 'numpy', 'pyarrow', 'sklearn'} & set(sys.modules))))\n"
        "from gradfast.cli import main\n"
        "main()\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("heavy: []")


def test_the_console_script_loads_the_operators_when_it_needs_them(tmp_path: Path) -> None:
    script = tmp_path / "gradfast"
    script.write_text(
        "import torch, gradfast\n"
        "print(gradfast.grad_norms(torch.nn.Linear(3, 2), torch.ones(1, 3)).values.shape)\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.stdout.strip() == "torch.Size([1, 2, 2])", done.stderr
