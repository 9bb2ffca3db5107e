"""Faults of the disk and the clock during an extraction: nothing lost, nothing twice, no wrong value read.

Kills at every write point, damaged shards and second writers: test_extractor, test_features and test_ranks.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from gradfast.errors import InputError
from gradfast.extractor import FeatureExtractor
from gradfast.features import Features
from gradfast.store import CorruptError, MismatchError, StoreError, files

N = 40
FILES = {"rows_per_file": 16, "progress": False}  # batches of 8, so three files


class Net(nn.Module):
    """Raises after so many samples, which is no part of its fingerprint."""

    def __init__(self, samples: int = 10**9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.left = samples

    def forward(self, x: Tensor) -> Tensor:
        self.left -= len(x)
        if self.left < 0:
            raise ZeroDivisionError
        return self.inner(x)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(1)), torch.arange(N) % 3


def extract(folder: Path, samples: int = 10**9, source: Any = None) -> Features:
    return FeatureExtractor(Net(samples).eval(), batch_size=8).extract(source or data(), folder, **FILES)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    extract(folder)
    return folder


class Failing:
    """Calls through until the ``at``-th call, which fails as a full disk does, and all after it."""

    def __init__(self, function: Callable[..., Any], at: int, code: int) -> None:
        self.function, self.at, self.code = function, at, code
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls >= self.at:
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*arguments)


@contextmanager
def failing(what: str, at: int, code: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if what == "replace":
            fails = Failing(Path.replace, at, code)
            patch.setattr(Path, "replace", lambda path, target: fails(path, target))
        else:
            patch.setattr(files.os, "fsync", Failing(os.fsync, at, code))
        yield


def attempt(folder: Path) -> Exception | None:
    try:
        extract(folder)
    except (StoreError, OSError) as error:
        return error
    return None


@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=lambda code: errno.errorcode[code]
)
def test_a_disk_that_fails_at_every_write_in_turn(
    unbroken: Path, tmp_path: Path, what: str, code: int
) -> None:
    for at in range(1, 100):
        folder = tmp_path / str(at)
        with failing(what, at, code):
            error = attempt(folder)
        if error is None:
            break
        assert os.strerror(code) in str(error)
        assert not list(folder.glob("**/*.unfinished"))
        if (folder / "_manifest.json").exists():  # failed after the last write: all is there
            Features.load(folder).verify()
        extract(folder)
        assert content(folder) == content(unbroken), f"{what} {at}"
    assert content(folder) == content(unbroken)
    assert at > 8  # run.json, three shards with a record each, the manifest


def test_a_full_disk_says_how_much_is_missing(tmp_path: Path) -> None:
    with (
        failing("fsync", 3, errno.ENOSPC),
        pytest.raises(
            StoreError,
            match=r"no room for its \d\.\d MB, .* MB are free \(No space left on device\); what was written before is kept",
        ),
    ):
        extract(tmp_path / "out")


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


@pytest.mark.parametrize("seconds", [-(10**9), 10**9], ids=["back", "on"])
def test_a_clock_that_jumps(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Neither the clock nor the files' times decide what is done."""
    folder = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        extract(folder, samples=32)
    for i, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (i * 10**8, i * 10**8))
    jump(monkeypatch, seconds)
    extract(folder)
    assert content(folder) == content(unbroken)


class TestShards:
    """A finished directory whose files were damaged: read as they were, or not at all."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        extract(tmp_path / "out")
        return tmp_path / "out"

    def test_cut_anywhere(self, folder: Path) -> None:
        path = folder / "part-00001.parquet"
        whole = path.read_bytes()
        for kept in (0, 1, 4, 8, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:kept])
            with pytest.raises(CorruptError, match=r"part-00001\.parquet"):
                _ = Features.load(folder).values

    def test_any_bit(self, folder: Path) -> None:
        wanted = Features.load(folder).values.copy()
        path = folder / "part-00002.parquet"
        whole = path.read_bytes()
        noticed = 0
        for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 150):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            try:
                np.testing.assert_array_equal(Features.load(folder).values, wanted)
            except CorruptError:
                noticed += 1
        assert noticed > 75

    def test_shards_that_changed_places(self, folder: Path) -> None:
        a, b = folder / "part-00000.parquet", folder / "part-00001.parquet"
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
        with pytest.raises(CorruptError, match=r"part-00000\.parquet"):
            _ = Features.load(folder).values


class TestShuffledLoader:
    """A loader that shuffles with a seed draws its order once per run, and a run goes on with that order only."""

    def loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True, generator=generator)

    def test_order_is_that_of_the_loader(self, tmp_path: Path) -> None:
        x = torch.cat([x for x, _ in self.loader(3)])
        f = extract(tmp_path / "out", source=self.loader(3))
        torch.testing.assert_close(torch.from_numpy(f.logits), Net().inner(x).detach())

    @pytest.mark.parametrize("lost", [None, 0, 1])
    def test_goes_on_in_the_same_order(self, tmp_path: Path, lost: int | None) -> None:
        whole = extract(tmp_path / "whole", source=self.loader(3))
        with pytest.raises(ZeroDivisionError):
            extract(tmp_path / "out", samples=32, source=self.loader(3))
        if lost is not None:
            (tmp_path / "out" / f"part-0000{lost}.parquet").unlink()
        f = extract(tmp_path / "out", source=self.loader(3))
        np.testing.assert_array_equal(f.values, whole.values)
        np.testing.assert_array_equal(f.labels, whole.labels)

    def test_another_seed_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            extract(tmp_path / "out", samples=32, source=self.loader(3))
        with pytest.raises(MismatchError, match=r"source\.order was "):
            extract(tmp_path / "out", source=self.loader(4))

    def test_without_a_seed_is_refused(self, tmp_path: Path) -> None:
        loader = DataLoader(TensorDataset(*data()), batch_size=8, sampler=RandomSampler(range(N)))
        with pytest.raises(InputError, match="its order differs from run to run"):
            extract(tmp_path / "out", source=loader)
