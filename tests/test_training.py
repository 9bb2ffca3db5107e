"""Training: it learns, goes on where it was killed, ends with the same bits, and says what it cannot use."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from gradfast.cli import app
from gradfast.data import Pixels, Preprocess
from gradfast.errors import InputError
from gradfast.models import load_model, load_preprocess
from gradfast.store.errors import CorruptError, MismatchError
from gradfast.training import SCHEDULES, Recipe, TrainingError, train
from gradfast.training.batches import epoch_batches

CHECKPOINT = "_training/checkpoint.safetensors"


class Small(nn.Module):
    """With a BatchNorm and a Dropout, whose state a run that goes on must have as well."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        logits: Tensor = self.head(self.drop(out))
        return logits


def coloured(n: int, seed: int, side: int = 8) -> Pixels:
    """Noise, brighter in the channel of its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = torch.randint(0, 150, (n, 3, side, side), generator=generator)
    pixels[torch.arange(n), labels] += 60
    return Pixels(pixels.to(torch.uint8), labels, torch.arange(n))


DATA, TEST = coloured(70, 0), coloured(30, 1)
SHORT = Recipe(epochs=3, batch_size=16, lr=0.1)


def run(out: Path, recipe: Recipe = SHORT, **options: Any) -> Any:
    return train(Small, DATA, TEST, out, recipe, progress=False, **options)


class KilledError(Exception):
    pass


def killer(after: int) -> Any:
    """Stops the run once so many epochs are checkpointed."""

    def say(row: dict[str, float]) -> None:
        if row["epoch"] == after:
            raise KilledError

    return say


class TestRun:
    def test_learns_and_writes_what_it_says(self, tmp_path: Path) -> None:
        result = run(tmp_path / "run", Recipe(epochs=8, batch_size=16, lr=0.1))
        assert result.history[-1]["test_accuracy"] > 0.9
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
            "metrics.csv",
            "training.json",
            "weights.safetensors",
        ]
        with (tmp_path / "run/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
        assert [float(row["test_accuracy"]) for row in rows] == [r["test_accuracy"] for r in result.history]
        stored = load_file(result.weights)
        assert stored.keys() == Small().state_dict().keys()
        assert all(torch.equal(value, stored[name]) for name, value in result.model.state_dict().items())
        assert not result.model.training

    def test_weights_say_how_images_were_prepared(self, tmp_path: Path) -> None:
        recipe = Recipe(epochs=1, batch_size=16, mean=(0.5,), std=(0.1, 0.2, 0.3))
        prepared = Preprocess((8, 8), 3, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
        assert load_preprocess(run(tmp_path, recipe).weights) == prepared
        assert torch.allclose(
            prepared(DATA.bytes[0]), recipe.normalise(DATA.bytes[:1])[0], rtol=1e-6, atol=1e-6
        )

    def test_weights_of_others_say_nothing(self, tmp_path: Path) -> None:
        save_file(Small().state_dict(), tmp_path / "plain.safetensors", {"format": "pt"})
        torch.save(Small().state_dict(), tmp_path / "plain.pt")
        save_file(Small().state_dict(), tmp_path / "odd.safetensors", {"gradfast.preprocess": "[1]"})
        assert load_preprocess(tmp_path / "plain.safetensors") is None
        assert load_preprocess(tmp_path / "plain.pt") is None
        with pytest.raises(InputError, match=r"odd\.safetensors: its header's gradfast\.preprocess"):
            load_preprocess(tmp_path / "odd.safetensors")

    def test_leaves_the_random_state(self, tmp_path: Path) -> None:
        state = torch.get_rng_state()
        run(tmp_path)
        assert torch.equal(torch.get_rng_state(), state)

    def test_seed_decides(self, tmp_path: Path) -> None:
        one, same = run(tmp_path / "1"), run(tmp_path / "2")
        other = run(tmp_path / "3", Recipe(epochs=3, batch_size=16, seed=1))
        assert one.weights.read_bytes() == same.weights.read_bytes()
        assert one.weights.read_bytes() != other.weights.read_bytes()

    def test_finished_run_is_not_repeated(self, tmp_path: Path) -> None:
        first = run(tmp_path)
        again = run(tmp_path, say=lambda row: pytest.fail("an epoch was run"))
        assert again.history == first.history
        assert torch.equal(again.model.head.weight, first.model.head.weight)

    @pytest.mark.parametrize(
        "images", [17, 33]
    )  # the last batch of one is left out, and the schedule knows it
    def test_last_batch_of_one(self, images: int, tmp_path: Path) -> None:
        result = train(Small, DATA[:images], TEST, tmp_path, SHORT, progress=False)
        assert result.history[-1]["lr"] < 0.01


@pytest.mark.parametrize(
    "recipe",
    [*(Recipe(epochs=3, batch_size=16, schedule=name) for name in SCHEDULES),
     Recipe(epochs=3, batch_size=16, ema=0.9, bf16=True, crop=6),
     Recipe(epochs=3, batch_size=16, momentum=0.0)],
    ids=[*SCHEDULES, "ema-bf16-crop", "no-momentum"],
)  # fmt: skip
@pytest.mark.parametrize("after", [1, 2])
def test_resumed_run_equals_an_unbroken_one(recipe: Recipe, after: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", recipe)
    with pytest.raises(KilledError):
        run(tmp_path / "broken", recipe, say=killer(after))
    epochs: list[float] = []
    resumed = run(tmp_path / "broken", recipe, say=lambda row: epochs.append(row["epoch"]))
    assert epochs == list(range(after + 1, 4))
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    timeless = [[{**row, "seconds": 0} for row in result.history] for result in (whole, resumed)]
    assert timeless[0] == timeless[1]


def test_killed_in_mid_epoch_loses_that_epoch_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{
        f"{split}_{what}": array
        for split, pixels in (("train", DATA), ("test", TEST))
        for what, array in (("images", pixels.bytes.numpy()), ("labels", pixels.labels.numpy()))
    })  # fmt: skip
    source = Path(__file__).read_text().split("class Small")[1].split("def coloured")[0]
    (tmp_path / "slow.py").write_text(
        "import time\nimport torch\nfrom torch import Tensor, nn\n\n\nclass Small" + source
        + "\n\nclass Slow(Small):\n    def forward(self, x):\n        time.sleep(0.05 * self.training)\n"
        "        return super().forward(x)\n\n\ndef build():\n    return Slow()\n"
    )  # fmt: skip
    arguments = [
        *("train", str(tmp_path / "slow.py:build"), str(tmp_path / "data.npz")),
        *("--epochs", "4", "--batch-size", "8", "--threads", "1", "--no-progress"),
    ]
    broken = [*arguments, "-o", str(tmp_path / "broken")]
    process = subprocess.Popen([sys.executable, "-c", "from gradfast.cli import main; main()", *broken])
    checkpoint = tmp_path / "broken" / CHECKPOINT
    deadline = time.monotonic() + 100
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.15)  # some batches into the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "broken/weights.safetensors").exists()
    result = CliRunner().invoke(app, broken)
    assert result.exit_code == 0, result.output
    assert "epoch 1/4" not in result.output
    assert "epoch 4/4" in result.output
    assert CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "whole")]).exit_code == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


class TestRefusesToGoOn:
    @pytest.mark.parametrize("finished", [True, False])
    def test_other_settings(self, finished: bool, tmp_path: Path) -> None:
        if finished:
            run(tmp_path)
        else:
            with pytest.raises(KilledError):
                run(tmp_path, say=killer(1))
        with pytest.raises(MismatchError, match=r"lr was 0\.1, is 0\.2"):
            run(tmp_path, Recipe(epochs=3, batch_size=16, lr=0.2))
        with pytest.raises(MismatchError, match="images was 70, is 60"):
            train(Small, DATA[:60], TEST, tmp_path, SHORT, progress=False)
        with pytest.raises(MismatchError, match="model was 'model', is 'other'"):
            run(tmp_path, name="other")

    @pytest.mark.parametrize("keep", [0, 20, -10])
    def test_damaged_checkpoint(self, keep: int, tmp_path: Path) -> None:
        with pytest.raises(KilledError):
            run(tmp_path, say=killer(1))
        checkpoint = tmp_path / CHECKPOINT
        checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
        with pytest.raises(CorruptError, match="checkpoint"):
            run(tmp_path)


class TestBatches:
    def test_every_image_once_in_another_order_each_epoch(self) -> None:
        def order(epoch: int) -> list[int]:
            numbered = Pixels(DATA.bytes, torch.arange(70), DATA.index)
            return [int(i) for _, y in epoch_batches(numbered, 16, 0, epoch, True) for i in y]

        assert sorted(order(0)) == list(range(70))
        assert order(0) != order(1)
        assert order(1) == order(1)

    def test_crops_and_flips_are_of_the_image(self) -> None:
        side = 12
        ramp = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side).expand(64, 3, -1, -1) + 1
        data = Pixels(ramp, torch.zeros(64, dtype=torch.int64), torch.arange(64))
        padded = torch.nn.functional.pad(ramp[0], (4, 4, 4, 4))
        windows = padded.unfold(1, side, 1).unfold(2, side, 1)[0].reshape(-1, side, side)
        both = torch.cat((windows, windows.flip(2))).tolist()
        ((batch, _),) = epoch_batches(data, 64, 0, 0, True)
        found = {both.index(image[0].tolist()) for image in batch}
        assert len(found) > 30
        assert any(i < len(windows) for i in found)
        assert any(i >= len(windows) for i in found)
        assert torch.equal(batch[:, 0], batch[:, 2])

    def test_small_crops_come_from_within(self) -> None:
        data = Pixels(DATA.bytes.clamp_min(1), DATA.labels, DATA.index)
        for x, _ in epoch_batches(data, 16, 0, 0, True, crop=5):
            assert x.shape[1:] == (3, 5, 5)
            assert int(x.min()) >= 1

    def test_without_augmentation_images_are_as_they_are(self) -> None:
        for x, y in epoch_batches(Pixels(DATA.bytes, DATA.index, DATA.index), 16, 0, 0, False):
            assert torch.equal(x, DATA.bytes[y])


class TestBadInput:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("epochs", 0), ("epochs", 1.5), ("batch_size", 1), ("lr", 0.0), ("lr", float("nan")), ("momentum", 1.0),
            ("weight_decay", -1.0), ("schedule", "linear"), ("ema", 1.0), ("seed", -1), ("crop", 0),
            ("mean", (float("inf"),)), ("mean", 0.5), ("std", (0.0,)), ("std", ()),
        ],
    )  # fmt: skip
    def test_recipe(self, option: str, value: Any) -> None:
        with pytest.raises(InputError, match=f"^{option}: got"):
            Recipe(**{option: value})

    def test_crop_without_augmentation(self) -> None:
        with pytest.raises(InputError, match="augment=False takes no crops"):
            Recipe(crop=24, augment=False)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"data": DATA.bytes}, "data: got a uint8 tensor"),
            ({"data": DATA[:0]}, "data: got no images"),
            ({"test": TEST[:0]}, "test: got no images"),
            (
                {"data": Pixels(DATA.bytes, DATA.labels - 1, DATA.index)},
                "data: 24 of 70 images have no label",
            ),
            ({"data": DATA[DATA.labels == 2]}, "data: all 23 images are of class 2; wanted at least two"),
            ({"test": coloured(5, 0, side=9)}, r"test: images are \[3, 9, 9\]"),
            ({"recipe": Recipe(mean=(0.1, 0.2))}, "mean: got .*; wanted one number or 3"),
            ({"recipe": Recipe(crop=9)}, "crop: got 9; wanted at most 8"),
            ({"build": lambda: Small(2)}, "data: labels go to 2; the model has 2 classes"),
            ({"build": lambda: nn.Conv2d(3, 4, 1)}, "model: returned"),
            ({"build": lambda: nn.Linear(5, 4)}, r"model: does not take images \[3, 8, 8\]"),
            ({"build": lambda: "model"}, "build: returned 'model'"),
        ],
    )
    def test_train(self, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
        given = {"build": Small, "data": DATA, "test": TEST, "recipe": SHORT, **changed}
        with pytest.raises(InputError, match=message):
            train(given["build"], given["data"], given["test"], tmp_path, given["recipe"], progress=False)

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", 1.5])
    def test_device(self, device: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="device: got"):
            run(tmp_path, device=device)

    def test_loss_that_is_no_number(self, tmp_path: Path) -> None:
        with pytest.raises(
            TrainingError, match=r"the loss is (nan|inf) in epoch 1; wanted a smaller lr than 1e"
        ):
            run(tmp_path, Recipe(epochs=1, batch_size=8, lr=1e30))


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        from PIL import Image

        for i in range(40):
            path = tmp_path / "data" / f"class{int(DATA.labels[i])}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(DATA.bytes[i].permute(1, 2, 0).numpy()).save(path)
        return tmp_path / "data"

    def test_weights_load_under_the_architectures_name(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        options = ("--epochs", "1", "--batch-size", "16", "--no-progress", "--limit", "40")
        result = CliRunner().invoke(app, ["train", "cifar_resnet20", str(folder), "-o", str(out), *options])
        assert result.exit_code == 0, result.output
        assert "no test set given: 4 of the images are held out" in result.output
        assert "36 images of 3 classes, 4 to test on" in result.output
        assert load_model("cifar_resnet20", out / "weights.safetensors").linear.out_features == 3
        record = json.loads((out / "training.json").read_text())
        assert record["settings"]["model"] == "cifar_resnet20"

    def test_mnists_files_are_trained_on_the_train_split(self, tmp_path: Path) -> None:
        folder = tmp_path / "mnist"
        folder.mkdir()
        for name, n, kind in (("train", 24, np.uint8(1)), ("t10k", 12, np.uint8(2))):
            for what, array in (
                ("images-idx3", np.full((n, 8, 8), kind)), ("labels-idx1", np.arange(n, dtype=np.uint8) % 2),
            ):  # fmt: skip
                head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
                (folder / f"{name}-{what}-ubyte").write_bytes(head + array.tobytes())
        options = ("--epochs", "1", "--batch-size", "8", "--no-progress", "--size", "8")
        for test in ((), ("--test", str(folder))):
            out = str(tmp_path / f"run{len(test)}")
            result = CliRunner().invoke(
                app, ["train", "cifar_resnet20", str(folder), "-o", out, *options, *test]
            )
            assert result.exit_code == 0, result.output
            assert "24 images of 2 classes, 12 to test on" in result.output

    @pytest.mark.parametrize("held", ["test", "validation"])
    def test_parquet_by_split_is_trained_on_the_train_split(self, held: str, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        for name, n in (("train", 24), (held, 12)):
            images = [io.BytesIO() for _ in range(n)]
            for file in images:
                Image.new("RGB", (8, 8)).save(file, "PNG")
            rows = {"image": [file.getvalue() for file in images], "label": [i % 2 for i in range(n)]}
            pq.write_table(pa.table(rows), folder / f"{name}-00000-of-00001.parquet")
        out = str(tmp_path / "run")
        options = ("--epochs", "1", "--batch-size", "8", "--no-progress", "--size", "8")
        result = CliRunner().invoke(app, ["train", "cifar_resnet20", str(folder), "-o", out, *options])
        assert result.exit_code == 0, result.output
        assert "24 images of 2 classes, 12 to test on" in result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["cifar_resnet21", "DATA"], "nearest: cifar_resnet"),
            (["cifar_resnet20", "nowhere"], "there is no nowhere"),
            (["cifar_resnet20", "DATA", "--test", "nowhere"], "there is no nowhere"),
            (["cifar_resnet20", "DATA", "--lr", "-1"], "lr: got -1.0"),
            (["cifar_resnet20", "DATA", "--mean", "x"], "--mean: got 'x'"),
            (["cifar_resnet20", "DATA", "--mean", "1,2"], "mean: got"),
            (["cifar_resnet20", "DATA", "--limit", "9"], "data: got 9 images; wanted at least 10, or --test"),
        ],
    )
    def test_mistakes_in_one_line(
        self, arguments: list[str], message: str, folder: Path, tmp_path: Path
    ) -> None:
        given = [str(folder) if a == "DATA" else a for a in arguments]
        result = CliRunner().invoke(app, ["train", *given, "-o", str(tmp_path / "o"), "--no-progress"])
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
