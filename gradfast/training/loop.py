"""The training loop: epochs, tests, checkpoints, and going on where a killed run was."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gradfast.data import Pixels, Preprocess
from gradfast.data.fingerprint import of_arrays
from gradfast.errors import GradfastError, InputError, describe
from gradfast.models import load_state_dict
from gradfast.models.loading import parse_device
from gradfast.models.weights import preprocess_header
from gradfast.progress import SampleProgress
from gradfast.store.errors import MismatchError
from gradfast.store.files import read_sealed, write_atomically, write_sealed
from gradfast.store.lock import WriterLock
from gradfast.store.run import differences

from .batches import epoch_batches, epoch_seed
from .checkpoint import State, read_header, write_tensors
from .recipe import Recipe

__all__ = ["TrainingError", "TrainingResult", "train"]

WEIGHTS, METRICS, RECORD = "weights.safetensors", "metrics.csv", "training.json"
PROGRESS = "_training"
COLUMNS = ("epoch", "loss", "train_accuracy", "test_accuracy", "lr", "seconds")
_TEST_BATCH = 500

Row = dict[str, float]


class TrainingError(GradfastError, RuntimeError):
    """The training itself failed: the loss is no longer a number."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        model: trained, in eval mode, with the averaged weights if the recipe asks for an average.
        weights: the file of its weights, as `gradfast.models.load_model` takes it.
        history: per epoch: epoch (from 1), loss and train_accuracy (means over the epoch's augmented images, as the
            weights changed), test_accuracy, lr (of the epoch's last step), seconds.
    """

    model: nn.Module
    weights: Path
    history: tuple[Row, ...]


def train(
    build: Callable[[], nn.Module],
    data: Pixels,
    test: Pixels,
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    name: str = "model",
    device: torch.device | str | None = None,
    progress: bool = True,
    say: Callable[[Row], None] = lambda row: None,
) -> TrainingResult:
    """Trains a classifier. Started again on its directory, a run goes on after its last finished epoch.

    A run that was killed and goes on ends with the same weights, to the bit, as one that was not, on the same machine
    with as many threads. The directory holds ``weights.safetensors`` (with the images' size, channels, mean and std in its
    header: `gradfast.models.load_preprocess`), ``metrics.csv`` and ``training.json``; while unfinished,
    ``_training/checkpoint.safetensors``. Nothing is pickled. Torch's random state is left as it was found.

    Args:
        build: makes the model, with random weights: logits [B, K] of normalised images float32 [B, C, H, W].
        data: to train on.
        test: to test on after each epoch.
        out: the directory; made if it is not there.
        recipe: default: `Recipe()`.
        name: of the architecture, for the record.
        device: to compute on; None: the CPU. On others, equal bits are not promised.
        progress: show a bar per epoch.
        say: told each epoch's metrics.

    Raises:
        InputError: labels that are unknown, of a single class or beyond the model's, or images that do not fit.
        MismatchError: the directory holds a run of another model, other data or another recipe.
        InUseError: another process trains there.
        TrainingError: the loss is not finite; the last checkpoint is kept.
    """
    recipe = recipe or Recipe()
    where = parse_device(device)
    _check(data, test, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build()
    if not isinstance(model, nn.Module):
        raise InputError(f"build: returned {describe(model)}; wanted a torch.nn.Module")
    _check_logits(model, data, recipe)
    settings = {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": of_arrays((data.bytes, data.labels)),
        "images": len(data),
        "test": of_arrays((test.bytes, test.labels)),
        "test_images": len(test),
        **recipe.settings(),
    }
    settings = json.loads(json.dumps(settings))
    return _Run(model.to(where), data, test, Path(out), recipe, settings, progress, say).run()


class _Run:
    def __init__(
        self,
        model: nn.Module,
        data: Pixels,
        test: Pixels,
        out: Path,
        recipe: Recipe,
        settings: dict[str, Any],
        progress: bool,
        say: Callable[[Row], None],
    ) -> None:
        self._data, self._test, self._out, self._recipe = data, test, out, recipe
        self._settings, self._progress, self._say = settings, progress, say
        self._model = model.to(memory_format=torch.channels_last)
        self._device = next(model.parameters()).device
        steps = -(-len(data) // recipe.batch_size)
        if len(data) % recipe.batch_size == 1 and len(data) > 1:
            steps -= 1
        optimizer = recipe.optimizer(self._model.parameters())
        average = (
            None
            if recipe.ema is None
            else AveragedModel(self._model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        )
        self._state = State(self._model, optimizer, recipe.scheduler(optimizer, steps), average)
        self._history: list[Row] = []
        self._lr = 0.0

    def run(self) -> TrainingResult:
        record, folder = self._out / RECORD, self._out / PROGRESS
        if record.is_file():
            return self._finished(record)
        with WriterLock(folder / "lock"):
            if record.is_file():
                return self._finished(record)
            checkpoint = folder / "checkpoint.safetensors"
            if checkpoint.is_file():
                self._refuse_others(read_header(checkpoint)["settings"])
                self._history = self._state.load(checkpoint)["history"]
            for epoch in range(len(self._history), self._recipe.epochs):
                self._history.append(self._epoch(epoch))
                self._state.save(checkpoint, {"settings": self._settings, "history": self._history})
                self._write_metrics()
                self._say(self._history[-1])
            self._write_metrics()
            # One key only: safetensors writes several in any order, and equal runs shall write equal files.
            header = preprocess_header(self._preprocess())
            write_tensors(self._out / WEIGHTS, self._kept().state_dict(), header)
            write_sealed(record, {"settings": self._settings, "history": self._history}, folder)
            checkpoint.unlink()
            (folder / "lock").unlink()
        folder.rmdir()
        return self._result()

    def _preprocess(self) -> Preprocess:
        """How images must be prepared for this model: what `extract` takes from the file of weights."""
        _, channels, height, width = self._data.bytes.shape
        mean, std = (v * (channels if len(v) == 1 else 1) for v in (self._recipe.mean, self._recipe.std))
        return Preprocess((height, width), channels, mean, std)

    def _finished(self, record: Path) -> TrainingResult:
        stored = read_sealed(record)
        self._refuse_others(stored["settings"])
        self._history = stored["history"]
        self._kept().load_state_dict(load_state_dict(self._out / WEIGHTS))
        return self._result()

    def _result(self) -> TrainingResult:
        return TrainingResult(self._kept().eval(), self._out / WEIGHTS, tuple(self._history))

    def _kept(self) -> nn.Module:
        average = self._state.ema
        return self._model if average is None else average.module  # type: ignore[return-value]

    def _refuse_others(self, stored: dict[str, Any]) -> None:
        if stored != self._settings:
            what = "; ".join(differences(stored, self._settings))
            raise MismatchError(
                f"{self._out}: holds a run of other settings: {what}; wanted the same, or another directory"
            )

    def _epoch(self, epoch: int) -> Row:
        recipe, began = self._recipe, time.perf_counter()
        losses, right, seen = 0.0, 0, 0
        self._model.train()
        doing = f"epoch {epoch + 1}/{recipe.epochs}"
        batches = epoch_batches(
            self._data, recipe.batch_size, recipe.seed, epoch, recipe.augment, recipe.crop
        )
        bar = SampleProgress(len(self._data), self._progress, doing=doing)
        with torch.random.fork_rng(devices=[]), bar:
            torch.manual_seed(epoch_seed(recipe.seed, epoch))  # for a model with dropout
            for pixels, labels in batches:
                x = recipe.normalise(pixels.to(self._device))
                loss, hits = self._step(x, labels.to(self._device))
                losses += loss * len(labels)
                right += hits
                seen += len(labels)
                bar.advance(len(labels))
                if loss != loss or abs(loss) == float("inf"):
                    raise TrainingError(
                        f"training: the loss is {loss} in epoch {epoch + 1}; wanted a smaller lr than {recipe.lr:g}"
                    )
        return {
            "epoch": epoch + 1,
            "loss": losses / seen,
            "train_accuracy": right / seen,
            "test_accuracy": self._accuracy(),
            "lr": self._lr,
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _step(self, x: Tensor, labels: Tensor) -> tuple[float, int]:
        state = self._state
        state.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self._model(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        state.optimizer.step()
        self._lr = float(state.optimizer.param_groups[0]["lr"])
        state.scheduler.step()
        if isinstance(state.ema, AveragedModel):
            state.ema.update_parameters(self._model)
        return float(loss.detach()), int((logits.argmax(1) == labels).sum())

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.bf16)

    @torch.no_grad()
    def _accuracy(self) -> float:
        model = self._kept().eval()
        right = 0
        for first in range(0, len(self._test), _TEST_BATCH):
            part = self._test[first : first + _TEST_BATCH]
            with self._autocast():
                logits = model(self._recipe.normalise(part.bytes.to(self._device)))
            right += int((logits.argmax(1).cpu() == part.labels).sum())
        return right / len(self._test)

    def _write_metrics(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self._history)
        write_atomically(self._out / METRICS, text.getvalue().encode(), self._out / PROGRESS)


def _check(data: Pixels, test: Pixels, recipe: Recipe) -> None:
    for what, pixels in (("data", data), ("test", test)):
        if not isinstance(pixels, Pixels):
            raise InputError(f"{what}: got {describe(pixels)}; wanted gradfast.data.Pixels, see read_pixels")
        if not len(pixels):
            raise InputError(f"{what}: got no images; wanted at least one")
        unknown = int((pixels.labels < 0).sum())
        if unknown:
            raise InputError(f"{what}: {unknown} of {len(pixels)} images have no label; wanted labels from 0")
    classes = data.labels.unique()
    if len(classes) < 2:
        raise InputError(
            f"data: all {len(data)} images are of class {int(classes[0])}; wanted at least two classes"
        )
    if data.bytes.shape[1:] != test.bytes.shape[1:]:
        raise InputError(
            f"test: images are {list(test.bytes.shape[1:])}, those to train on {list(data.bytes.shape[1:])}; "
            "wanted one shape"
        )
    if recipe.crop is not None and recipe.crop > min(data.bytes.shape[2:]):
        raise InputError(
            f"crop: got {recipe.crop}; wanted at most {min(data.bytes.shape[2:])}, the images' side"
        )


def _check_logits(model: nn.Module, data: Pixels, recipe: Recipe) -> None:
    x = recipe.normalise(data.bytes[:2])
    try:
        with torch.no_grad():
            logits = model.eval()(x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"model: does not take images {list(x.shape[1:])}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"model: returned {describe(logits)}; wanted logits [{len(x)}, K]")
    most = int(data.labels.max())
    if most >= logits.shape[1]:
        raise InputError(f"data: labels go to {most}; the model has {logits.shape[1]} classes, from 0")
