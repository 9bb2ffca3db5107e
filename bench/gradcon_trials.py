"""What the gradient score gains or loses by a setting, on held-out *training* images: `python -m bench.gradcon_trials DATA`.

A fifth of each class of the training images is kept for the trial; the test images are never looked at. For every class and number of epochs
it prints the AUROC of each score and of each decoder tensor's cosine alone: the averages at the end, the scores as they come. With
``--models DIR`` the trainings are kept there, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gradfast.detectors.metrics import auroc
from gradfast.gradcon import GradConScorer, GradConTrainer, TrainingSettings
from gradfast.gradcon.constraint import REFERENCES
from gradfast.gradcon.study.cells import make_model
from gradfast.gradcon.study.data import OneClass, from_spec, split_off
from gradfast.gradcon.training import as_float

_IMAGES = 500  # of each kind


def areas(scorer: GradConScorer, normal: torch.Tensor, others: torch.Tensor) -> dict[str, float]:
    """AUROC of every score, and of every tensor's cosine."""
    inside, outside = scorer(as_float(normal)), scorer(as_float(others))

    def columns(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return inside.by_name()[name], outside.by_name()[name]

    found = {name: auroc(*columns(name)) for name in inside.by_name()}
    for i, layer in enumerate(scorer.layers):
        found[f"cosine {layer}"] = auroc(-inside.cosines[:, i], -outside.cosines[:, i])
    return found


def trials(
    data: OneClass,
    label: int,
    epochs: list[int],
    settings: TrainingSettings,
    models: Path | None = None,
    init: str = "torch",
    limit: int | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains on one class; the areas after each number of epochs, kept in ``models`` beside the training."""
    folder = models / f"class{label}" if models else None
    images = data.normal(label, limit, settings.seed)
    trainer = GradConTrainer(
        make_model("CAE+Grad", images.shape[1], settings.seed, init, images),
        images,
        settings,
        directory=folder,
    )
    inside, outside = (x[:_IMAGES] for x in data.tested(label))
    for number in sorted(epochs):
        kept = folder / f"areas-{number}.json" if folder else None
        if kept and kept.exists():
            yield number, json.loads(kept.read_text())
            continue
        trainer.fit(number)
        scorer = GradConScorer(trainer.model, trainer.loss)
        found = areas(scorer.standardised(trainer.images[trainer.held_out]), inside, outside)
        refreshed = areas(scorer.refreshed(trainer.images[trainer.rows]), inside, outside)
        found["gradient, reference refreshed"] = refreshed["gradient"]
        if kept:
            kept.write_text(json.dumps(found, indent=1))
        yield number, found


def main() -> None:
    """Prints a Markdown table for each number of epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="training images, as gradfast extract takes them")
    parser.add_argument(
        "--no-test",
        action="store_true",
        help="DATA has no test set beside it: leave alone the fifth that the study tests on",
    )
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--labels", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--weight", type=float, default=0.03)
    parser.add_argument("--momentum", type=float)
    parser.add_argument("--reference", default="total", choices=REFERENCES)
    parser.add_argument("--per-image", action="store_true", help="constrain each image's gradient")
    parser.add_argument("--init", default="torch", choices=("torch", "he", "mean"))
    parser.add_argument("--limit", type=int, help="normal training images to use at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--models", type=Path, help="keep the trainings here, of one kind of settings each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = from_spec("trial", given.data, None, channels=given.channels, cache=given.cache)
    if given.no_test:
        train, held = split_off(data.train, seed=1)
        data = replace(data, train=train, test=held)
    settings = TrainingSettings(
        batch_size=given.batch_size,
        weight=given.weight,
        momentum=given.momentum,
        reference=given.reference,
        seed=given.seed,
        per_image=given.per_image,
    )
    found: dict[int, dict[int, dict[str, float]]] = {label: {} for label in given.labels}
    for label in given.labels:
        for number, of_it in trials(
            data, label, given.epochs, settings, given.models, given.init, given.limit
        ):
            found[label][number] = of_it
            scores = ", ".join(
                f"{name} {a:.3f}" for name, a in of_it.items() if not name.startswith("cosine")
            )
            print(f"{data.classes[label]}, {number} epochs: {scores}", flush=True)
    for number in sorted(given.epochs):
        print(f"\n| {number} epochs | " + " | ".join(map(str, given.labels)) + " | average |")
        print("|---|" + "---|" * (len(given.labels) + 1))
        for name in found[given.labels[0]][number]:
            row = [found[label][number][name] for label in given.labels]
            print(f"| {name} | {' | '.join(f'{a:.3f}' for a in row)} | {np.mean(row):.3f} |")


if __name__ == "__main__":
    main()
