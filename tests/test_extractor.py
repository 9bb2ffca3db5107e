"""Extraction: the engine's numbers, for every source, once each, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import gradfast.reference
from gradfast.errors import InputError, ModelError
from gradfast.extractor import FeatureExtractor, FlaggedWarning
from gradfast.features import Features
from gradfast.progress import SampleProgress
from gradfast.store import InUseError, MismatchError, Run, StoreError

N = 40
FILES = {"rows_per_file": 16, "progress": False}  # batches of 8, so three files
SPAWNED = multiprocessing.get_context("forkserver")
SPAWNED.set_forkserver_preload(["gradfast.extractor", "gradfast.reference", "pandas", "pytest"])


def net(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, classes)
    return nn.Sequential(*layers).eval()


def data(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=generator), torch.randint(-1, 4, (n,), generator=generator)


def extractor(model: nn.Module | None = None, **options: Any) -> FeatureExtractor:
    return FeatureExtractor(model or net(), **{"batch_size": 8, **options})


def truth(x: Tensor, **options: Any) -> Tensor:
    return gradfast.reference.grad_norms(net().double(), x.double(), **options).values


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Samples(Dataset[tuple[Tensor, int]]):
    """The same data; remembers what was read."""

    def __init__(self, n: int = N) -> None:
        self.x, self.y = data(n)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read.append(i)
        return self.x[i], int(self.y[i])


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter(zip(*data(), strict=True))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing disturbed, by a process like those that the tests kill."""
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    assert in_child(run_and_die, folder, 0) == 0
    return folder


def in_child(target: Callable[..., None], *arguments: Any) -> int:
    """Runs a function in a fresh process; the exit code, negative for a signal."""
    process = SPAWNED.Process(target=target, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def run_and_die(folder: Path, at: int) -> None:
    """Extracts, and is killed just before the ``at``-th time that it touches a name in the folder; 0: not killed."""
    torch.set_num_threads(1)
    touched = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(folder) in str(
            arguments[0]
        ):
            touched += 1
            if touched == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    extractor().extract(data(), out=folder, **FILES)


def forked(target: Callable[..., None], *arguments: Any) -> int:
    """Runs a function in a fork of this process, which must not have computed anything yet; the wait status."""
    child = os.fork()
    if not child:
        try:
            target(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_everywhere(unbroken: Path, scratch: Path) -> None:
    wanted = content(unbroken)
    killed = 0
    while forked(run_and_die, folder := scratch / str(killed), killed + 1) == signal.SIGKILL:
        killed += 1
        assert forked(run_and_die, folder, 0) == 0, f"killed before operation {killed}"
        assert content(folder) == wanted, f"killed before operation {killed}"
    assert content(folder) == wanted
    assert killed > 25


def kill_again_and_again(unbroken: Path, folder: Path) -> None:
    statuses = [forked(run_and_die, folder, at) for at in range(10, 60, 5)]
    assert statuses[0] == signal.SIGKILL
    assert statuses[-1] == 0
    assert content(folder) == content(unbroken)


class TestNumbers:
    def test_one_hot(self) -> None:
        x, y = data()
        f = extractor().extract((x, y), progress=False)
        assert f.shape == (N, 4, 6)
        assert f.layers == tuple(name for name, _ in net().named_parameters())
        assert f.values.dtype == np.float32
        torch.testing.assert_close(f.torch().double(), truth(x), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.from_numpy(f.logits), net()(x).detach())
        assert f.predictions.tolist() == net()(x).argmax(1).tolist()
        assert f.labels.tolist() == y.tolist()
        assert f.index.tolist() == list(range(N))
        assert f.classes is not None
        assert f.classes.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        "options",
        [
            {"contrast": "all-ones"},
            {"contrast": torch.eye(4)[:2] * 0.9, "loss": "mse"},
            {"classes": [3, 1], "layers": "4"},
            {"classes": 2, "layers": ["*.bias"]},
            {"loss": "bce"},
        ],
        ids=["all-ones", "targets", "classes", "top", "bce"],
    )
    def test_options_reach_the_engine(self, tmp_path: Path, options: dict[str, Any]) -> None:
        x, _ = data()
        f = extractor(**options).extract(x, out=tmp_path / "out", progress=False)
        wanted = gradfast.reference.grad_norms(net().double(), x.double(), **options)
        assert f.layers == wanted.layers
        torch.testing.assert_close(f.torch().double(), wanted.values, rtol=1e-4, atol=1e-6)
        if wanted.classes is not None:
            np.testing.assert_array_equal(f.classes, wanted.classes)

    @pytest.mark.parametrize(
        "source",
        [
            data(),
            Samples(),
            Stream(),
            DataLoader(Samples(), batch_size=8),
            DataLoader(Stream(), batch_size=8),
        ],
        ids=["tensors", "data set", "stream", "loader", "stream loader"],
    )
    def test_every_source_gives_the_same_values_and_files(
        self, unbroken: Path, tmp_path: Path, source: Any
    ) -> None:
        f = extractor().extract(source, out=tmp_path / "out", **FILES)
        np.testing.assert_allclose(f.values, Features.load(unbroken).values, rtol=1e-5)
        np.testing.assert_array_equal(f.labels, Features.load(unbroken).labels)
        assert [path.name for path in sorted((tmp_path / "out").iterdir())] == sorted(content(unbroken))

    def test_double_and_half_models_take_what_they_need(self) -> None:
        x, _ = data()
        f = extractor(net().double()).extract(x, progress=False)
        torch.testing.assert_close(f.torch().double(), truth(x), rtol=1e-6, atol=1e-12)
        assert f.settings["dtype"] == "float64"
        g = extractor(net().bfloat16()).extract(x, progress=False)
        assert g.settings["dtype"] == "bfloat16"
        assert np.isfinite(g.values).all()

    def test_several_inputs(self) -> None:
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = net()

            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                return self.inner(a + b)

        x, y = data()
        f = extractor(Sum().eval()).extract({"b": x / 2, "a": x / 2, "labels": y}, progress=False)
        torch.testing.assert_close(f.torch().double(), truth(x), rtol=1e-4, atol=1e-6)
        assert f.labels.tolist() == y.tolist()

    def test_model_is_left_as_it_was(self) -> None:
        model = net()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        extractor(model).extract(data(), progress=False)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())

    def test_settings_say_how(self) -> None:
        settings = extractor(classes=[1, 2], layers="0").extract(data(), progress=False).settings
        assert settings["contrast"] == "one-hot"
        assert settings["loss"] == "cross_entropy"
        assert settings["classes"] == [1, 2]
        assert settings["layers"] == ["0"]
        assert settings["model"] == "Sequential"
        assert settings["source"]["samples"] == N
        assert len(settings["model_fingerprint"]) == 64


class TestNotFinite:
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_is_kept_flagged_and_spoils_nothing(self, tmp_path: Path, value: float) -> None:
        x, y = data()
        clean = extractor().extract((x, y), progress=False)
        x[[9, 30], 0, 2, 2] = value
        with pytest.warns(FlaggedWarning, match=f"2 of {N} samples have .* flagged: 9, 30"):
            f = extractor().extract((x, y), out=tmp_path / "out", progress=False)
        others = [i for i in range(N) if i not in (9, 30)]
        assert np.flatnonzero(f.flagged).tolist() == [9, 30]
        assert f.predictions[[9, 30]].tolist() == [-1, -1]
        assert f.labels.tolist() == y.tolist()
        assert np.isnan(f.values[[9, 30]]).all()
        assert f.logits is not None
        assert np.isnan(f.logits[[9, 30]]).all()
        np.testing.assert_allclose(f.values[others], clean.values[others], rtol=1e-5)

    def test_whole_batch(self) -> None:
        x, _ = data(8)
        with pytest.warns(FlaggedWarning, match="8 of 8 samples"):
            f = extractor().extract(torch.full_like(x, torch.nan), progress=False)
        assert f.flagged.all()

    def test_norms_that_overflow_are_flagged(self) -> None:
        x, _ = data(8)
        x[3] *= 1e30
        with pytest.warns(FlaggedWarning, match="1 of 8 .* flagged: 3"):
            f = extractor().extract(x, progress=False)
        assert np.flatnonzero(f.flagged).tolist() == [3]
        assert f.predictions[3] >= 0

    def test_finite_samples_are_not_warned_about(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FlaggedWarning)
            extractor().extract(data(), progress=False)


class TestResume:
    def test_killed_at_every_write_point(self, unbroken: Path, tmp_path: Path) -> None:
        """Killed before each file-system operation in turn, then run to the end: the same bytes, and no others."""
        assert in_child(kill_everywhere, unbroken, tmp_path) == 0

    def test_killed_again_and_again(self, unbroken: Path, tmp_path: Path) -> None:
        assert in_child(kill_again_and_again, unbroken, tmp_path / "out") == 0

    def test_killed_from_outside(self, unbroken: Path, tmp_path: Path) -> None:
        """A separate program, in which nothing is watched, killed while it works."""
        folder = tmp_path / "out"
        script = (
            "import sys, time, torch; sys.path.insert(0, sys.argv[1]); import test_extractor as t\n"
            "torch.set_num_threads(1)\n"
            "class Slow(t.Samples):\n"
            "    def __getitem__(self, i): time.sleep(0.05); return super().__getitem__(i)\n"
            "Slow.__name__ = Slow.__qualname__ = 'Samples'\n"
            "t.extractor().extract(Slow(), out=sys.argv[2], **t.FILES)\n"
        )
        command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
        program = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while not (folder / "part-00000.parquet").exists():
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(InUseError, match=rf"in use by another run \(process {program.pid} on "):
            extractor().extract(Samples(), out=folder, **FILES)
        program.send_signal(signal.SIGKILL)
        program.wait(10)
        with pytest.raises(
            StoreError, match=r"the extraction is unfinished, \d shards are written; run it again"
        ):
            Features.load(folder)
        assert in_child(extract_samples, folder) == 0
        f = Features.load(folder)
        np.testing.assert_array_equal(f.values, Features.load(unbroken).values)
        assert f.index.tolist() == list(range(N))
        assert content(folder).keys() == content(unbroken).keys()

    def test_only_what_is_missing_is_read(self, tmp_path: Path) -> None:
        samples = Samples()
        with pytest.raises(ZeroDivisionError):
            extractor(failing_after(32)).extract(samples, out=tmp_path / "out", **FILES)
        samples.read.clear()
        f = extractor(failing_after(None)).extract(samples, out=tmp_path / "out", **FILES)
        assert min(set(samples.read) - {0, N // 2, N - 1}) == 32  # besides the three of the fingerprint
        assert f.index.tolist() == list(range(N))

    def test_finished_directory_is_returned_as_it_is(self, unbroken: Path) -> None:
        before = {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()}
        f = extractor().extract(data(), out=unbroken, **FILES)
        assert len(f) == N
        assert {path.name: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before

    @pytest.mark.parametrize("damage", ["lost", "cut", "altered"])
    def test_damaged_file_of_an_unfinished_run_is_written_anew(
        self, unbroken: Path, tmp_path: Path, damage: str
    ) -> None:
        folder = tmp_path / "out"
        assert in_child(run_and_die, folder, 22) == -signal.SIGKILL
        file = folder / "part-00000.parquet"
        whole = file.read_bytes()
        assert (folder / "part-00001.parquet").exists()
        {
            "lost": file.unlink,
            "cut": lambda: file.write_bytes(whole[:-9]),
            "altered": lambda: file.write_bytes(whole[:99] + b"!" + whole[100:]),
        }[damage]()
        assert in_child(run_and_die, folder, 0) == 0
        assert content(folder) == content(unbroken)


def extract_samples(folder: Path) -> None:
    torch.set_num_threads(1)
    extractor().extract(Samples(), out=folder, **FILES)


def failing_after(samples: int | None) -> nn.Module:
    """A model of always the same fingerprint that raises after so many samples."""

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.left = samples

        def forward(self, x: Tensor) -> Tensor:
            if self.left is not None:
                self.left -= len(x)
                if self.left < 0:
                    raise ZeroDivisionError
            return self.inner(x)

    return Failing().eval()


class TestRefusals:
    def begun(self, folder: Path, finished: bool) -> Path:
        if finished:
            extractor().extract(data(), out=folder, **FILES)
        else:
            assert in_child(run_and_die, folder, 22) == -signal.SIGKILL
        return folder

    @pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
    def test_says_which_settings_differ(self, tmp_path: Path, finished: bool) -> None:
        folder = self.begun(tmp_path / "out", finished)
        before = content(folder)
        x, y = data()
        other = net()
        other[4].bias.data[0] += 1
        for run, differing in [
            (lambda: extractor(other).extract((x, y), out=folder, **FILES), ["model_fingerprint"]),
            (
                lambda: extractor(nn.Sequential(net()).eval()).extract((x, y), out=folder, **FILES),
                ["model_fingerprint"],
            ),
            (
                lambda: extractor(loss="bce", layers="0").extract((x, y), out=folder, **FILES),
                ["layers", "loss"],
            ),
            (
                lambda: extractor(contrast="all-ones").extract((x, y), out=folder, **FILES),
                ["contrast", "loss"],
            ),
            (lambda: extractor(classes=[1]).extract((x, y), out=folder, **FILES), ["classes"]),
            (lambda: extractor(batch_size=4).extract((x, y), out=folder, **FILES), ["source.batch_size"]),
            (lambda: extractor().extract((x + 1, y), out=folder, **FILES), ["source.fingerprint"]),
            (
                lambda: extractor().extract((x[:9], y[:9]), out=folder, **FILES),
                ["source.fingerprint", "source.samples"],
            ),
            (lambda: extractor(dtype=torch.bfloat16).extract((x, y), out=folder, **FILES), ["dtype"]),
        ]:
            with pytest.raises(MismatchError, match="was begun with other settings") as caught:
                run()
            said = [
                part.split(" was ")[0] for part in str(caught.value).split("settings: ")[1].split("; ")[:-1]
            ]
            assert said == differing
        assert content(folder) == before

    def test_a_callable_loss_is_known_by_more_than_its_name(self, tmp_path: Path) -> None:
        def power(z: torch.Tensor, t: torch.Tensor, n: int) -> torch.Tensor:
            return ((z - t) ** n).sum(1)

        def scaled(by: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
            return lambda z, t: by * (z - t).square().sum(1)

        for i, (loss, same, other) in enumerate(
            [
                (partial(power, n=2), partial(power, n=2), partial(power, n=4)),
                (scaled(1.0), scaled(1.0), scaled(2.0)),
                (lambda z, t: (z * t).sum(1), lambda z, t: (z * t).sum(1), lambda z, t: (z + t).sum(1)),
            ]
        ):
            folder = tmp_path / str(i)
            extractor(loss=loss).extract(data(), out=folder, **FILES)
            extractor(loss=same).extract(data(), out=folder, **FILES)
            with pytest.raises(MismatchError, match="loss_fingerprint"):
                extractor(loss=other).extract(data(), out=folder, **FILES)

    def test_other_file_size_of_an_unfinished_run(self, tmp_path: Path) -> None:
        folder = self.begun(tmp_path / "out", finished=False)
        with pytest.raises(MismatchError, match="rows_per_file was 16, is 8"):
            extractor().extract(data(), out=folder, rows_per_file=8, progress=False)

    def test_second_writer(self, tmp_path: Path) -> None:
        with (
            Run(tmp_path / "out", {}),
            pytest.raises(InUseError, match=rf"out: in use by another run \(process {os.getpid()} on .*\)"),
        ):
            extractor().extract(data(), out=tmp_path / "out", progress=False)
        extractor().extract(data(), out=tmp_path / "out", progress=False)

    def test_children_of_a_killed_run_do_not_hold_the_directory(self, tmp_path: Path) -> None:
        """A loader's workers outlive a killed run by some seconds."""
        assert in_child(fork_and_die, tmp_path / "out", tmp_path / "child") == -signal.SIGKILL
        child = int((tmp_path / "child").read_text())
        try:
            os.kill(child, 0)  # still there
            assert len(extractor().extract(data(), out=tmp_path / "out", progress=False)) == N
        finally:
            os.kill(child, signal.SIGKILL)

    def test_shuffled_loader(self, tmp_path: Path) -> None:
        loader = DataLoader(Samples(), batch_size=8, shuffle=True)
        with pytest.raises(InputError, match="its order differs from run to run"):
            extractor().extract(loader, out=tmp_path / "out", progress=False)
        assert len(extractor().extract(loader, progress=False)) == N

    def test_failed_before_anything_was_written(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            extractor(failing_after(0)).extract(data(), out=tmp_path / "out", progress=False)
        assert content(tmp_path / "out") == {}
        assert len(extractor().extract(data(), out=tmp_path / "out", progress=False)) == N

    def test_train_mode(self) -> None:
        model = net()
        model[2].train()
        with pytest.raises(ModelError, match=r"model: 2 \(ReLU\) is in train mode.*wanted model\.eval\(\)"):
            extractor(model).extract(data(), progress=False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, r"batch_size: got 0 \(int\); wanted an int of at least 1"),
            ({"layers": "convolution"}, "layers: no parameter is called 'convolution'"),
            (
                {"contrast": torch.zeros(8, 2, 4)},
                r"contrast: got a float32 tensor .* wanted targets \[C, K\]",
            ),
            ({"memory_budget": "much"}, "memory_budget: got 'much'"),
            ({"dtype": torch.int8}, "dtype: got torch.int8"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            extractor(**options)

    def test_empty_sources(self) -> None:
        with pytest.raises(InputError, match="it gave no samples"):
            extractor().extract([], progress=False)


def fork_and_die(folder: Path, note: Path) -> None:
    with Run(folder, {}):
        child = os.fork()
        if not child:
            time.sleep(300)
            os._exit(0)
        note.write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)


class TestDisk:
    def test_full(self, tmp_path: Path) -> None:
        """A limit on the size of files, which a shard exceeds but run.json does not, stands in for a full disk."""
        folder = tmp_path / "out"
        assert in_child(run_out_of_room, folder, 5000) == 0
        assert not list(folder.glob("**/*.unfinished"))
        assert not list(folder.glob("part-*"))
        assert in_child(run_and_die, folder, 0) == 0
        assert len(Features.load(folder)) == N

    def test_read_only(self) -> None:
        with tempfile.TemporaryDirectory() as name:  # not tmp_path, which is closed to other users
            Path(name).chmod(0o555)
            assert in_child(run_in_read_only, Path(name)) == 0

    def test_out_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(StoreError, match="out: cannot be written: "):
            extractor().extract(data(), out=tmp_path / "out", progress=False)


def run_out_of_room(folder: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(
        StoreError, match=r"part-00000\.parquet: no room for its \d\.\d MB, .*are free.*run again"
    ):
        extractor().extract(data(), out=folder, **FILES)


def run_in_read_only(folder: Path) -> None:
    if os.geteuid() == 0:  # who may write everywhere
        os.seteuid(65534)
    with pytest.raises(StoreError, match=r"out: cannot be written: Permission denied"):
        extractor().extract(data(), out=folder / "out", **FILES)


def test_progress_shows_samples_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extractor().extract(data(), out=tmp_path / "out")
    shown = capsys.readouterr()
    assert f"{N}/{N}" in shown.err
    assert "samples/s" in shown.err
    assert shown.out == ""


def test_rate_is_that_of_this_run() -> None:
    with SampleProgress(total=10**9, shown=False) as bar:
        bar.resumed(10**8)
        for _ in range(5):
            time.sleep(0.002)
            bar.advance(1)
        (task,) = bar._progress.tasks
        assert task.completed == 10**8 + 5
        assert task.speed is not None
        assert 0 < task.speed < 5 / 0.008


@pytest.mark.shared
def test_cifar_with_its_resnet(shared: Path, tmp_path: Path) -> None:
    from gradfast.data import Preprocess, open_images
    from gradfast.models import load_model

    model = load_model("cifar_resnet20", shared / "cifar10-resnet20.safetensors")
    preprocess = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = open_images(shared / "cifar10-test.parquet", preprocess, limit=96)
    f = FeatureExtractor(model, contrast="all-ones", batch_size=32).extract(
        images, out=tmp_path / "out", progress=False
    )
    assert f.shape == (96, 1, 59)
    assert (f.predictions == f.labels).mean() > 0.7
    x = torch.stack([images[i][0] for i in range(2)]).double()
    wanted = gradfast.reference.grad_norms(model.double(), x, contrast="all-ones").values
    torch.testing.assert_close(f[:2].torch().double(), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("model", [net(), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 4))])
def test_a_list_of_single_samples_is_named(model: nn.Module) -> None:
    words = (
        r"source: the model cannot take a batch whose x is .* of shape \[1, 6, 6\].*torch.stack\(samples\)"
    )
    with pytest.raises(InputError, match=words):
        extractor(model.eval()).extract(list(torch.randn(4, 1, 6, 6)), progress=False)


def test_other_errors_of_a_model_are_its_own() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        extractor(Broken(5, 4).eval()).extract(torch.randn(4, 5), progress=False)


def test_repr() -> None:
    assert repr(extractor()) == "FeatureExtractor(Sequential, contrast='one-hot', loss='cross_entropy')"
    text = repr(extractor(contrast=torch.eye(4), loss="mse", layers="4"))
    assert text == "FeatureExtractor(Sequential, contrast=[4, 4], loss='mse', layers='4')"
