"""From names on a command line to a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gradfast.data import Pixels, Preprocess, open_images, read_pixels
from gradfast.data.idx import has_idx
from gradfast.data.parquet import splits_of
from gradfast.errors import InputError
from gradfast.models import load_model
from gradfast.places import as_path

from .loop import Row, TrainingResult, train
from .recipe import Recipe

__all__ = ["Job", "run_job"]

_HELD_OUT = 10  # one in so many, where there is no test set


@dataclass(frozen=True)
class Job:
    """What `gradfast train` is asked for; see its options."""

    model: str
    data: str
    out: Path
    recipe: Recipe
    preprocess: Preprocess
    test: str | None = None
    limit: int | None = None
    test_limit: int | None = None
    num_classes: int | None = None
    threads: int | None = None
    device: str | None = None


def run_job(
    job: Job, *, progress: bool = True, say: Callable[[str], None] = lambda line: None
) -> TrainingResult:
    """Reads the images, trains, and says what comes of it, line by line.

    Raises:
        InputError: as `open_images`, `load_model` and `train`.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    tested = _test_split(job.data)
    source = open_images(job.data, job.preprocess, split="train" if tested else "test", limit=job.limit)
    data = read_pixels(source, progress=progress)
    if job.test is not None or tested:
        split = (tested if job.test is None else None) or "test"
        test = read_pixels(
            open_images(job.test or job.data, job.preprocess, split=split, limit=job.test_limit),
            progress=progress,
        )
    else:
        data, test = _hold_out(data, job.recipe.seed)
        say(f"no test set given: {len(test):,} of the images are held out to test on")
    classes = len(source.classes) if source.classes else int(data.labels.max()) + 1
    named = ":" not in job.model or job.model.startswith(("torchvision:", "timm:"))
    build = partial(
        load_model,
        job.model,
        num_classes=(job.num_classes or classes) if named else job.num_classes,
        untrained=True,
    )
    epochs = job.recipe.epochs
    say(
        f"{job.model}: {len(data):,} images of {classes} classes, {len(test):,} to test on, {epochs} epoch{'s' * (epochs > 1)}"
    )
    result = train(
        build,
        data,
        test,
        job.out,
        job.recipe,
        name=job.model,
        device=job.device,
        progress=progress,
        say=lambda row: say(_line(row, epochs)),
    )
    say(f"{result.weights}: test accuracy {result.history[-1]['test_accuracy']:.4f}")
    return result


def _test_split(spec: str) -> str | None:
    """The split to test on, of a set that has one beside "train"; None where a set has no splits."""
    if spec.startswith("torchvision:") or spec.endswith(".npz"):
        return "test"
    path = as_path(spec)
    if not path.is_dir():
        return None
    # As `open_images` takes them: a folder with Parquet in it is one of Parquet.
    if next(path.glob("*.parquet"), None) is None:
        return "test" if has_idx(path) else None
    return next((split for split in ("test", "validation") if split in splits_of(path)), None)


def _hold_out(data: Pixels, seed: int) -> tuple[Pixels, Pixels]:
    n = len(data) // _HELD_OUT
    if not n:
        raise InputError(f"data: got {len(data)} images; wanted at least {_HELD_OUT}, or --test")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order[n:].sort().values], data[order[:n].sort().values]


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row['epoch']:.0f}/{epochs}: loss {row['loss']:.4f}, accuracy {row['train_accuracy']:.4f} in training,"
        f" {row['test_accuracy']:.4f} in the test, {row['seconds']:.0f} s"
    )
