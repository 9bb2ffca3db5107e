"""A long extraction under a memory budget: peak memory over time, and how right the time left was.

Run as a program, not by pytest, for it takes minutes::

    python -m bench.bench_load ../shared/data --samples 100000 --plot docs/results/load.svg

Real images: CIFAR-10's training and test sets, Tiny ImageNet, MNIST and Omniglot at 32 x 32, then again from the
start until there are enough. A ResNet-20 with the all-ones contrast; one process computes, one decodes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

import gradfast.extractor
from gradfast.data import Preprocess, open_images
from gradfast.extractor import FeatureExtractor
from gradfast.models import load_model
from gradfast.progress import SampleProgress

SETS = ("cifar10-train", "cifar10-test", "tiny-imagenet-32-val", "mnist-10k", "omniglot-small1")


class Recorder(SampleProgress):
    """The bar of an extraction, which also notes what it shows: seconds, samples done, seconds left."""

    shown: list[tuple[float, float, float | None]] = []  # noqa: RUF012  (one per process, read after the run)
    began = 0.0

    def advance(self, samples: int) -> None:
        super().advance(samples)
        (task,) = self._progress.tasks
        Recorder.shown.append((time.monotonic() - Recorder.began, task.completed, task.time_remaining))


def resident() -> int:
    """Bytes of this process's memory that are its own, its children's included; shared pages once."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    total = 0
    for process in [str(me), *children]:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # a worker that has just ended
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024


def images(folder: Path, samples: int) -> Dataset[Any]:
    """So many real images; the sets one after another, again and again."""
    sets: list[Dataset[Any]] = [
        open_images(folder / f"{name}.parquet", Preprocess(size=32)) for name in SETS if (folder / f"{name}.parquet").is_file()
    ]  # fmt: skip
    once = sum(len(s) for s in sets)  # type: ignore[arg-type]
    return Subset(ConcatDataset(sets * -(-samples // once)), range(samples))


def watch(every: float, stop: threading.Event, into: list[tuple[float, int]]) -> None:
    """Notes the memory until told to stop."""
    while not stop.wait(every):
        into.append((time.monotonic() - Recorder.began, resident()))


def summary(memory: list[tuple[float, int]], budget: str) -> dict[str, Any]:
    """Peaks of the tenths of the run, and how far off the time left was, as a share of the whole time."""
    whole = Recorder.shown[-1][0]
    tenths = [max((m for t, m in memory if i <= 10 * t / whole < i + 1), default=0) for i in range(10)]
    off = [(t + left) / whole - 1 for t, _, left in Recorder.shown if left is not None and t > 0.05 * whole]
    return {
        "samples": int(Recorder.shown[-1][1]),
        "memory_budget": budget,
        "seconds": round(whole, 1),
        "samples_per_second": round(Recorder.shown[-1][1] / whole, 1),
        "peak_mb_by_tenth": [round(m / 1e6) for m in tenths],
        "last_tenth_over_second": round(tenths[9] / tenths[1], 4),
        "predicted_total_off_worst": round(max(off, key=abs), 4),
        "predicted_total_off_within_10_percent": round(sum(abs(o) <= 0.1 for o in off) / len(off), 4),
        "load_average": [round(x, 1) for x in os.getloadavg()],
    }


def plot(memory: list[tuple[float, int]], path: Path) -> None:
    """Memory over time above, the predicted whole time below."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 4.8), sharex=True, layout="constrained")
    above.plot([t for t, _ in memory], [m / 1e6 for _, m in memory], linewidth=1)
    above.set(ylabel="memory, MB", ylim=(0, None))
    shown = [(t, t + left) for t, _, left in Recorder.shown if left is not None]
    whole = Recorder.shown[-1][0]
    below.fill_between([0, whole], 0.9 * whole, 1.1 * whole, alpha=0.2, label="within 10%")
    below.plot(*zip(*shown, strict=True), linewidth=1, label="elapsed + time left")
    below.set(xlabel="seconds", ylabel="predicted whole, s", ylim=(0, 2 * whole))
    below.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Runs once and prints JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", type=Path, help="folder of the Parquet files and cifar10-resnet20.safetensors"
    )
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--memory-budget", default="200MB")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gradfast.extractor.SampleProgress = Recorder  # type: ignore[attr-defined]
    model = load_model("cifar_resnet20", arguments.data / "cifar10-resnet20.safetensors")
    extractor = FeatureExtractor(model, contrast="all-ones", memory_budget=arguments.memory_budget)
    memory: list[tuple[float, int]] = []
    stop = threading.Event()
    Recorder.began = time.monotonic()
    watcher = threading.Thread(target=watch, args=(1.0, stop, memory))
    watcher.start()
    with tempfile.TemporaryDirectory() as out:
        features = extractor.extract(images(arguments.data, arguments.samples), out, workers=1)
        features.verify()
        assert len(set(features.index.tolist())) == arguments.samples
    stop.set()
    watcher.join()
    print(json.dumps(summary(memory, arguments.memory_budget), indent=1))
    if arguments.plot:
        plot(memory, arguments.plot)


if __name__ == "__main__":
    main()
