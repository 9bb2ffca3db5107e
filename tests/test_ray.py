"""Extraction by a local Ray of two workers: every sample once, the values of a single process, whoever dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradfast import FeatureExtractor
from gradfast.distributed import extract
from gradfast.errors import InputError
from gradfast.features import Features

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

pytestmark = pytest.mark.slow  # starting Ray takes ten seconds

N = 90
OPTIONS = {"batch_size": 4, "contrast": "one-hot"}
FILES = {"rows_per_file": 8, "progress": False}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()


class Samples(Dataset[tuple[Tensor, int]]):
    """Kills the process that reads sample 41, once, unless that is the test's own."""

    def __init__(self, note: Path | None = None) -> None:
        self.x = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        self.note = note

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == 41 and self.note and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.x[i], i % 4


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    here = str(Path(__file__).parent)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}})  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a single process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("single") / "out"
    FeatureExtractor(net(), **OPTIONS).extract(Samples(), folder, **FILES)
    torch.set_num_threads(threads)
    return folder


def test_the_documentation_s_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1] / "docs" / "distributed.md"
    (block,) = re.findall(r"^```py\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(block, names)
    assert len(names["features"]) == 100


def test_two_actors_one_killed(unbroken: Path, tmp_path: Path) -> None:
    note = tmp_path / "killed"
    f = extract(Samples(note), net(), tmp_path / "out", actors=2, **FILES, **OPTIONS)
    assert note.exists()
    assert f.index.tolist() == list(range(N))
    assert content(tmp_path / "out") == content(unbroken)


def test_goes_on_where_a_driver_was_killed(unbroken: Path, tmp_path: Path) -> None:
    class Interrupted(Samples):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            if i == 60:
                raise ZeroDivisionError
            return super().__getitem__(i)

    Interrupted.__name__ = Interrupted.__qualname__ = "Samples"
    with pytest.raises(Exception, match="ZeroDivisionError"):
        extract(Interrupted(), net(), tmp_path / "out", **FILES, **OPTIONS)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert 0 < len(written) < 12
    extract(Samples(), net, tmp_path / "out", actors=(1, 2), **FILES, **OPTIONS)
    assert content(tmp_path / "out") == content(unbroken)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == at for name, at in written.items())


def test_parquet_in_and_out_by_url(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8)
    encoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append(file.getvalue())
    (tmp_path / "in").mkdir()
    labels = pa.array(np.arange(20) % 4, type=pa.int16())
    pq.write_table(
        pa.table({"image": encoded, "label": labels}), tmp_path / "in" / "0.parquet", row_group_size=7
    )
    from gradfast.data import Preprocess, open_images

    grey = Preprocess(channels=1)
    url = f"file://{tmp_path}"
    f = extract(f"{url}/in", net(), f"{url}/out", actors=2, preprocess=grey, **FILES, **OPTIONS)
    alone = FeatureExtractor(net(), **OPTIONS).extract(open_images(tmp_path / "in", grey), progress=False)
    np.testing.assert_allclose(f.values, alone.values, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(f.labels, np.arange(20) % 4)
    np.testing.assert_array_equal(Features.load(f"{url}/out").values, Features.load(tmp_path / "out").values)

    streamed = extract(
        ray.data.read_parquet(str(tmp_path / "in")),
        net(),
        tmp_path / "streamed",
        actors=1,  # and a CPU to read with
        preprocess=grey,
        **FILES,
        **OPTIONS,
    )
    np.testing.assert_allclose(streamed.values, alone.values, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(streamed.labels, np.arange(20) % 4)
    assert streamed.layers == alone.layers


def test_a_ray_data_set_of_arrays_one_actor_killed(unbroken: Path, tmp_path: Path) -> None:
    note = str(tmp_path / "killed")

    def kill(row: dict[str, Any]) -> dict[str, Any]:
        if row["label"] == 41 and not os.path.exists(note):  # noqa: PTH110  (pickled to a worker as it is)
            open(note, "w").close()  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    x = Samples().x.numpy()
    rows = ray.data.from_items([{"x": x[i], "label": i} for i in range(N)], override_num_blocks=9).map(kill)
    f = extract(rows, net(), tmp_path / "out", actors=2, **FILES, **OPTIONS)
    assert Path(note).exists()
    assert f.labels.tolist() == f.index.tolist() == list(range(N))
    np.testing.assert_allclose(f.values, Features.load(unbroken).values, rtol=1e-4, atol=1e-6)


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"actors: got \(2, 1\); wanted at least 1, or \(least, most\)"):
        extract(Samples(), net(), tmp_path / "out", actors=(2, 1), **FILES, **OPTIONS)
    with pytest.raises(InputError, match="source: list does not say how many samples it has"):
        extract([torch.ones(2, 1, 6, 6)], net(), tmp_path / "out", **FILES, **OPTIONS)
    with pytest.raises(InputError, match=r"ray\.data\.Dataset is empty"):
        extract(ray.data.from_items([]), net(), tmp_path / "out", **FILES, **OPTIONS)


def test_command_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()\n"
    )
    command = [sys.executable, "-m", "gradfast", "extract", "net.py:net", "x.npz", "--channels", "1", "--batch-size", "8"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for more in (["-o", "alone"], ["-o", "ray", "--ray", "--actors", "1,2"]):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        assert "40 samples x 4 contrast rows x 2 layers" in done.stdout
    assert content(tmp_path / "alone") == content(tmp_path / "ray")
