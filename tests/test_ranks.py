"""Extraction by several ranks: every sample once, the bytes of a single process, whoever dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from gradfast.distributed import extract_ranks, rank_and_world
from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.store import Block, InUseError, Layout, MismatchError, Run, SharedRun, StoreError

N, BATCH, ROWS = 90, 4, 8  # twelve shards, the last of two samples

COMMON = f"""
import os, signal, sys, time
import torch
from torch import nn
from torch.utils.data import TensorDataset
from gradfast import FeatureExtractor
from gradfast.distributed import extract_ranks
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
x = torch.randn({N}, 1, 6, 6, generator=torch.Generator().manual_seed(1))
class Samples(TensorDataset):
    "Kills its process, once per file of that name, when a certain sample is read."
    at, note = -1, None
    def __getitem__(self, i):
        if i == self.at and not os.path.exists(self.note):
            open(self.note, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)  # so that no rank has done everything before the other begins
        return super().__getitem__(i)
data = Samples(x, torch.arange({N}) % 4)
extractor = FeatureExtractor(model, batch_size={BATCH})
"""

RANK = (
    COMMON
    + f"""
group = "MASTER_PORT" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
if group:
    torch.distributed.init_process_group("gloo")
rank = int(os.environ["RANK"])
data.at, data.note = int(sys.argv[2 + rank]), f"{{sys.argv[1]}}-killed-{{rank}}"
f = extract_ranks(extractor, data, sys.argv[1], rows_per_file={ROWS}, progress=False)
assert len(f) == {N}
print("done", rank, flush=True)
os._exit(0)  # a process group with a dead member does not end
"""
)


class Squares(TorchDataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((3,), i / N), i % 4


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **more}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a single process."""
    folder = tmp_path_factory.mktemp("single") / "out"
    single = f"{COMMON}\nextractor.extract(data, sys.argv[1], rows_per_file={ROWS}, progress=False)"
    subprocess.run([sys.executable, "-c", single, str(folder)], check=True, env=environment(), timeout=120)
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "rank.py"
    path.write_text(RANK)
    return path


def start(script: Path, folder: Path, *killed_at: int) -> list[int]:
    """Two ranks in a gloo group, each killed at a sample, -1 for never; their exit codes."""
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), *map(str, killed_at)],
            env=environment(RANK=str(rank), WORLD_SIZE="2", MASTER_PORT=port),
        )
        for rank in range(2)
    ]
    return [rank.wait(120) for rank in ranks]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def torchrun(*command: str, restarts: int = 0) -> list[str]:
    options = ["--nproc-per-node=2", f"--max-restarts={restarts}", f"--master-port={free_port()}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *command]


def test_the_survivor_does_the_work_of_a_killed_rank(unbroken: Path, script: Path, tmp_path: Path) -> None:
    # Sample 9 lies in shard 1, of rank 1, which dies over it; but for the fingerprint nobody reads it before.
    assert start(script, tmp_path / "out", -1, 9) == [0, -9]
    assert content(tmp_path / "out") == content(unbroken)


def test_killed_and_restarted(unbroken: Path, script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert start(script, folder, 33, 41) == [-9, -9]  # in shards 4 and 5
    with pytest.raises(StoreError, match=r"the extraction is unfinished, \d+ shards are written"):
        Features.load(folder)
    assert start(script, folder, 33, 41) == [0, 0]
    assert content(folder) == content(unbroken)
    assert Features.load(folder).index.tolist() == list(range(N))


@pytest.mark.slow
def test_torchrun_restarts_after_a_rank_was_killed(unbroken: Path, script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = torchrun(str(script), str(folder), "33", "41", restarts=2)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out-killed-*"))
    assert content(folder) == content(unbroken)


@pytest.mark.slow
def test_command_line_under_torchrun(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()\n"
    )
    rest = ["-m", "gradfast", "extract", "net.py:net", "x.npz", "--channels", "1", "--batch-size", "8"]
    for name, command in {"one": [sys.executable, *rest], "two": torchrun(*rest)}.items():
        done = subprocess.run(
            [*command, "-o", name],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("40 samples x 4 contrast rows") == 1
    assert content(tmp_path / "one") == content(tmp_path / "two")


class TestSharedRun:
    """The claims, without processes."""

    def layout(self, **settings: int) -> Layout:
        return Layout(("w",), 1, 0, None, settings)

    def block(self, first: int, n: int) -> Block:
        index = np.arange(first, first + n)
        return Block(index, index, index, index < 0, index.astype(np.float32).reshape(n, 1, 1))

    def run(self, folder: Path, rank: int = 0, world: int = 2, **settings: int) -> SharedRun:
        return SharedRun(folder, settings, 4, samples=10, batch=2, rank=rank, world=world)

    def test_ranks_begin_with_shards_of_their_own_and_end_with_those_of_others(self, tmp_path: Path) -> None:
        with self.run(tmp_path / "out") as a, self.run(tmp_path / "out", 1) as b:
            a.begin(self.layout(), 2)
            b.begin(self.layout(), 2)
            assert (a.missing(), b.missing()) == ([0, 2, 1], [1, 0, 2])
            with a.claim(0) as mine, b.claim(0) as theirs:
                assert (mine, theirs) == (True, False)
                a.commit(0, self.block(0, 4))
            with b.claim(0) as again:
                assert not again
            for shard in (1, 2):
                with b.claim(shard) as mine:
                    assert mine
                    b.commit(shard, self.block(4 * shard, min(4, 10 - 4 * shard)))
            assert a.missing() == b.missing() == []
            a.finish()
            assert (tmp_path / "out" / "_progress").exists()  # until the last has left
        assert not (tmp_path / "out" / "_progress").exists()
        assert Features.load(tmp_path / "out").index.tolist() == list(range(10))

    def test_a_single_process_and_ranks_keep_each_other_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gradfast.store.shared._LEAVING", 0.2)
        with Run(tmp_path / "a", {}), pytest.raises(InUseError), self.run(tmp_path / "a"):
            pass
        with self.run(tmp_path / "b"), pytest.raises(InUseError), Run(tmp_path / "b", {}):
            pass

    def test_a_rank_with_another_model_is_refused(self, tmp_path: Path) -> None:
        with self.run(tmp_path / "out", model=1) as a:
            a.begin(self.layout(model=1), 2)
            with pytest.raises(MismatchError, match="model was 1, is 2"), self.run(tmp_path / "out", model=2):
                pass

    def test_many_threads_write_every_shard_once(self, tmp_path: Path) -> None:
        wrote: list[int] = []

        def work(rank: int) -> None:
            with SharedRun(tmp_path / "out", {}, 2, samples=60, batch=2, rank=rank, world=6) as run:
                run.begin(self.layout(), 2)
                while missing := run.missing():
                    for shard in missing:
                        with run.claim(shard) as mine:
                            if mine:
                                wrote.append(shard)
                                run.commit(shard, self.block(2 * shard, 2))
                run.finish()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(wrote) == list(range(30))
        assert Features.load(tmp_path / "out").index.tolist() == list(range(60))
        assert not (tmp_path / "out" / "_progress").exists()


class TestArguments:
    def extractor(self):  # type: ignore[no-untyped-def]
        from gradfast import FeatureExtractor

        return FeatureExtractor(torch.nn.Linear(3, 4).eval(), batch_size=8)

    @pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "")])
    def test_environment(self, monkeypatch: pytest.MonkeyPatch, rank: str, world: str) -> None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(InputError, match=rf"RANK={rank} and WORLD_SIZE={world}; wanted 0 <= RANK"):
            rank_and_world()

    def test_rank_outside_the_world(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"rank: got 2 .* wanted 0 to world_size - 1"):
            extract_ranks(self.extractor(), Squares(), tmp_path / "out", rank=2, world_size=2)

    def test_a_source_that_cannot_be_entered_in_the_middle(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="source: list does not say how many samples it has"):
            extract_ranks(self.extractor(), [torch.ones(2, 3)], tmp_path / "out")

    def test_a_loader_that_shuffles_with_a_seed(self, tmp_path: Path) -> None:
        def loader() -> DataLoader[tuple[torch.Tensor, int]]:
            return DataLoader(Squares(), 8, shuffle=True, generator=torch.Generator().manual_seed(3))

        order = [round(N * y) for batch in loader() for y in batch[0][:, 0].tolist()]
        f = extract_ranks(self.extractor(), loader(), tmp_path / "out", rows_per_file=16, progress=False)
        assert f.labels.tolist() == [i % 4 for i in order]
        assert f.index.tolist() == list(range(N))
