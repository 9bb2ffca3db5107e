"""The cells of a one-class study: one data set, normal class, model and seed each; kept on disk, and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradfast.detectors.metrics import auroc
from gradfast.errors import InputError
from gradfast.gradcon.autoencoders import ConvAutoencoder, ConvVAE, brightness
from gradfast.gradcon.checkpoint import load_scorer
from gradfast.gradcon.scores import GradConScorer
from gradfast.gradcon.study.data import SIZE, OneClass
from gradfast.gradcon.training import (
    Epoch,
    GradConTrainer,
    TrainingSettings,
    as_float,
    image_sum,
    split_rows,
)

__all__ = ["MODELS", "PAPERS", "Cell", "constrained", "make_model", "read_kept", "run_cell"]

# Name: (architecture, what is constrained). The last two are not the paper's.
MODELS = {
    "CAE": ("cae", None),
    "CAE+Grad": ("cae", "batch"),
    "VAE": ("vae", None),
    "VAE+Grad": ("vae", "batch"),
    "CAE+Grad per image": ("cae", "image"),
    "VAE+Grad per image": ("vae", "image"),
}
PAPERS = ("CAE", "CAE+Grad", "VAE", "VAE+Grad")
_WEIGHT = 0.03
# What results were of before they said so.
_UNSAID = {"batch_size": 64, "init": "torch", "reference": "total"}
REFRESHED, STANDARDISED = "gradient, reference refreshed", "gradient, standardised"


def constrained(model: str) -> str | None:
    """What is constrained in a model of `MODELS`: the ``"batch"``'s gradient, each ``"image"``'s, or, as in any baseline, nothing."""
    return MODELS.get(model, ("", None))[1]


@dataclass(frozen=True)
class Cell:
    """One training and its test."""

    data: str
    label: int
    model: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.data}/{self.model.replace(' ', '-')}/class{self.label}-seed{self.seed}"


def make_model(
    name: str, channels: int, seed: int, init: str = "torch", images: Tensor | None = None
) -> nn.Module:
    """A model of `MODELS` for 28 x 28 images, with weights drawn by ``seed``.

    ``init``: ``"torch"`` or ``"he"`` as for `ConvAutoencoder`; ``"mean"``: PyTorch's, and the output at the brightness of the training
    ``images``.
    """
    if name not in MODELS:
        raise InputError(f"model: got {name!r}; wanted one of {', '.join(MODELS)}")
    mean = None
    if init == "mean":
        if images is None:
            raise InputError('images: got None; wanted the training images, for init "mean"')
        init, mean = "torch", brightness(images)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        build = ConvAutoencoder if MODELS[name][0] == "cae" else ConvVAE
        model: nn.Module = build(channels, (SIZE, SIZE), init=init, mean=mean)
    return model


def run_cell(
    cell: Cell,
    data: OneClass,
    directory: Path,
    epochs: int,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    init: str = "torch",
    reference: str = "total",
    tell: Callable[[Epoch], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Trains up to ``epochs`` epochs and tests after the last one and after the best one; returns and keeps the result.

    A cell that has been run to as many epochs is read; one that was run to fewer is trained on. Which epoch is the best
    is told by the loss on a tenth of the normal training images that is held out; the test images choose nothing. ``init`` as for
    `make_model`, ``reference`` as for `GradConLoss`.

    Raises:
        InputError: the cell was run with other images or settings, or has been trained for more epochs and not tested there.
    """
    folder = directory / cell.folder
    kept = folder / f"result-{epochs}.json"
    on = constrained(cell.model)
    settings = TrainingSettings(
        batch_size=batch_size,
        weight=0.0 if on is None else _WEIGHT,
        seed=cell.seed,
        reference=reference,
        per_image=on == "image",
    )
    images = data.normal(cell.label, limit, cell.seed)
    inside, outside = data.tested(cell.label, cell.seed)
    used = {
        "batch_size": batch_size,
        "init": init,
        "reference": reference,
        "train_images": len(split_rows(len(images), settings)[1]),
        "test_images": [len(inside), len(outside)],
        "sums": [image_sum(x) for x in (images, inside, outside)],
    }
    found = read_kept(kept, used)
    if found is not None:
        return found
    trainer = GradConTrainer(
        make_model(cell.model, data.train.images.shape[1], cell.seed, init, images),
        images,
        settings,
        directory=folder,
    )
    if len(trainer.history) > epochs:
        raise InputError(
            f"epochs: got {epochs}; {folder} has been trained for {len(trainer.history)}, and was not tested after {epochs}; "
            f"wanted {len(trainer.history)} or more, or another directory"
        )
    trainer.fit(epochs, tell)
    best = trainer.best
    held_out = trainer.images[trainer.held_out]
    scorer = GradConScorer(trainer.model, trainer.loss)
    last = _areas(scorer, inside, outside, held_out)
    refreshed = _areas(scorer.refreshed(trainer.images[trainer.rows]), inside, outside)
    last[REFRESHED] = refreshed["gradient"]
    result: dict[str, Any] = {
        "data": cell.data,
        "class": cell.label,
        "model": cell.model,
        "seed": cell.seed,
        "epochs": epochs,
        **used,
        "best_epoch": best.number if best else 0,
        "seconds": sum(e.seconds for e in trainer.history),
        "last": last,
        "best": _areas(load_scorer(folder / "best.safetensors"), inside, outside, held_out),
        "history": [[e.reconstruction, e.constraint, e.validation, *e.cosines] for e in trainer.history],
    }
    scratch = kept.with_suffix(".part")
    scratch.write_text(json.dumps(result, indent=1) + "\n")
    scratch.replace(kept)
    return result


def read_kept(path: Path, used: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result that was kept; None where there is none.

    Raises:
        InputError: it is of other images or settings than ``used``, as far as it says.
    """
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    for name, value in used.items():
        there = found.get(name, _UNSAID.get(name, value))
        if there != value:
            raise InputError(
                f"study: {path} is of a run with {name} {there}; this one has {value}; "
                "wanted the same images and settings, or another directory"
            )
    return found


def _areas(
    scorer: GradConScorer, inside: Tensor, outside: Tensor, held_out: Tensor | None = None
) -> dict[str, float]:
    """AUROC of every score, anomalies to be scored higher; standardised on ``held_out``, where there are enough normal images."""
    if held_out is not None and len(held_out) > 1:
        scorer = scorer.standardised(held_out)
    normal, anomalous = scorer(as_float(inside)), scorer(as_float(outside))
    others = anomalous.by_name()
    areas = {name: auroc(values, others[name]) for name, values in normal.by_name().items()}
    return {STANDARDISED if name == "standardised" else name: area for name, area in areas.items()}


def cells(data: str, models: Iterable[str], labels: Iterable[int], seeds: Iterable[int]) -> list[Cell]:
    """All combinations: model by model, so that a table's rows fill up one after the other."""
    return [Cell(data, label, model, seed) for seed in seeds for model in models for label in labels]
