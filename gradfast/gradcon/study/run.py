"""A one-class study from data to the files of its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gradfast.errors import InputError
from gradfast.gradcon.checkpoint import load_scorer, read_checkpoint
from gradfast.gradcon.study.baselines import BASELINES, PADIM, run_baseline
from gradfast.gradcon.study.cells import PAPERS, Cell, cells, constrained, run_cell
from gradfast.gradcon.study.conditions import condition_table, run_conditions
from gradfast.gradcon.study.data import OneClass
from gradfast.gradcon.study.plots import figure_files
from gradfast.gradcon.study.tables import as_csv, class_table
from gradfast.gradcon.training import Epoch, as_float

__all__ = ["PROFILES", "Profile", "collect", "draw", "run", "write"]

_PROTOCOL = (
    "AUROC, anomalies scored higher; one class normal, the others anomalous; all test images of the class and as many drawn from "
    "the others. Settings are the paper's (Adam 1e-3, constraint weight 0.03, a tenth of the normal training images "
    "held out); none was tuned on test images. Standardised and refreshed are not the paper's scores. Tested after the last epoch, and at the best one, with the lowest loss on "
    "held-out normal images, which is what the published code keeps (by class in the CSV). ± is half the 95% t-interval over seeds."
)

_ABOUT_PER_IMAGE = (
    "Per image: the constraint is on the direction of each image's gradient, which is what the score looks at, in place of the batch's. "
    "Not the paper's."
)

_ABOUT_REFERENCES = {
    "reconstruction": "The reference is the mean gradient of the reconstruction error, without the constraint's.",
    "direction": "The reference is the mean of the gradients scaled to length one. Not the paper's.",
}

_ABOUT_PADIM = (
    "PaDiM-like: at each position a Gaussian of the features that the network of `--features` has for normal images. That network was trained "
    "on other images with their labels, which the rows above do without."
)


@dataclass(frozen=True)
class Profile:
    """How much is run: epochs, normal training images per class (None: all), images per batch, initial weights
    (`ConvAutoencoder`), what the reference is of (`GradConLoss`), seeds, models, baselines, and whether the conditions too.
    """

    epochs: int
    limit: int | None
    seeds: tuple[int, ...]
    models: tuple[str, ...] = PAPERS
    baselines: tuple[str, ...] = tuple(BASELINES)
    conditions: bool = True
    batch_size: int = 64
    init: str = "torch"
    reference: str = "total"


PROFILES = {
    "quick": Profile(
        epochs=6, limit=1000, seeds=(0,), models=("CAE", "CAE+Grad"), baselines=("isolation forest",)
    ),
    "full": Profile(epochs=60, limit=None, seeds=(0, 1, 2)),
}


def run(
    data: OneClass,
    profile: Profile,
    directory: Path,
    labels: Sequence[int] | None = None,
    tell: Callable[[str], None] = lambda line: None,
    features: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Runs every cell that is not there yet and returns all results; an interrupted study goes on where it was.

    ``features``: a network for one baseline more, `PADIM`.
    """
    labels = list(range(len(data.classes))) if labels is None else list(labels)
    key = _key(data)
    results = []
    for cell in cells(key, profile.models, labels, profile.seeds):
        found = run_cell(
            cell, data, directory, profile.epochs,
            limit=profile.limit, batch_size=profile.batch_size, init=profile.init, reference=profile.reference,
        )  # fmt: skip
        results.append(found)
        tell(_line(cell, data, found))
    baselines = (*profile.baselines, *((PADIM,) if features is not None else ()))
    for cell in cells(key, baselines, labels, profile.seeds):
        found = run_baseline(cell, data, directory, limit=profile.limit, features=features)
        results.append(found)
        tell(_line(cell, data, found))
    if profile.conditions and data.train.images.shape[1] == 3:
        for cell in cells(key, [m for m in profile.models if m.startswith("CAE")], labels, profile.seeds[:1]):
            run_conditions(cell, data, directory, limit=profile.limit)
            tell(f"{cell.model} on {data.classes[cell.label]}: eight corruptions at five levels")
    return results


def collect(data: OneClass, directory: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """The results there are of a data set; of models trained to ``epochs`` epochs, or each to the most."""
    import json

    root = directory / _key(data)
    found = [json.loads(path.read_text()) for path in sorted(root.glob("*/*/result*.json"))]
    if epochs is not None:
        return [r for r in found if r["epochs"] in (0, epochs)]
    most: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in found:
        cell = (r["model"], r["class"], r["seed"])
        if cell not in most or r["epochs"] > most[cell]["epochs"]:
            most[cell] = r
    return list(most.values())


def write(
    data: OneClass, results: Sequence[dict[str, Any]], directory: Path, out: Path, command: str = ""
) -> list[Path]:
    """Writes gradcon-NAME.csv and .md: the classes' table, beside the paper's for CIFAR-10, and the conditions' where they were run."""
    if not results:
        raise InputError(f"study: nothing of {data.name} has been run in {directory}")
    out.mkdir(parents=True, exist_ok=True)
    stem = f"gradcon-{_key(data)}"
    runs = sorted({(r["epochs"], r["seed"]) for r in results if r["epochs"]})
    text = [f"# GradCON, one class of {data.name} normal", ""]
    text += [f"{data.about} {_PROTOCOL}", ""]
    trained = [r for r in results if r["epochs"]]
    text += [
        f"Run: epochs {_listed(e for e, _ in runs)}, batches of {_listed(r.get('batch_size', 64) for r in trained)}, "
        f"{_listed(r['train_images'] for r in trained)} normal training images, seeds {_listed(s for _, s in runs)}"
        f"{_beginnings(trained)}."
    ]
    if any(constrained(r["model"]) == "image" for r in results):
        text += ["", _ABOUT_PER_IMAGE]
    for name in sorted({r.get("reference", "total") for r in trained} - {"total"}):
        text += ["", _ABOUT_REFERENCES[name]]
    if any(r["model"] == PADIM for r in results):
        text += ["", _ABOUT_PADIM]
    text += ["", *([f"    {command}", ""] if command else [])]
    text += [class_table(results, data.classes, paper=data.name == "CIFAR-10"), ""]
    conditions = list(_conditions(data, directory))
    if conditions:
        text += [
            "## Abnormal conditions",
            "",
            _about_conditions(conditions),
            "",
            condition_table(conditions),
            "",
        ]
    (out / f"{stem}.md").write_text("\n".join(text))
    (out / f"{stem}.csv").write_text(as_csv(results))
    return [out / f"{stem}.md", out / f"{stem}.csv"]


def draw(data: OneClass, results: Sequence[dict[str, Any]], directory: Path, out: Path) -> list[Path]:
    """Figures of the first constrained model among the results, into ``out``; none where there is no such model."""
    shown = next((r for r in results if constrained(r["model"])), None)
    if shown is None:
        return []
    cell = Cell(shown["data"], shown["class"], shown["model"], shown["seed"])
    checkpoint = directory / cell.folder / "last.safetensors"
    if not checkpoint.exists():  # results that were brought without their models
        return []
    history = [Epoch(**e) for e in read_checkpoint(checkpoint).facts["history"]]
    inside, outside = (as_float(x[:200]) for x in data.tested(cell.label, cell.seed))
    prefix = f"gradcon-{cell.data}-{data.classes[cell.label].lower()}-"
    return figure_files(load_scorer(checkpoint), history, inside, outside, out, prefix)


def _conditions(data: OneClass, directory: Path) -> Iterator[dict[str, Any]]:
    import json

    for path in sorted((directory / _key(data)).glob("*/*/conditions-*.json")):
        yield json.loads(path.read_text())


def _about_conditions(results: Sequence[dict[str, Any]]) -> str:
    classes = _listed(r["class"] for r in results)
    return (
        f"Models of one class's clean images; {results[0]['images'] // 2} clean test images of that class against as many others of it, "
        f"corrupted. Means over classes {classes}. Rank correlation: Spearman's, of the scores of the corrupted images with the level."
    )


def _key(data: OneClass) -> str:
    return data.name.lower().replace("-", "")


def _line(cell: Cell, data: OneClass, found: dict[str, Any]) -> str:
    areas = ", ".join(f"{score} {value:.3f}" for score, value in found["last"].items())
    return f"{cell.model} on {data.classes[cell.label]}, seed {cell.seed}: AUROC {areas}"


_BEGINNINGS = {
    "torch": "PyTorch's initial weights",
    "mean": "PyTorch's initial weights, the output begun at the brightness of the training images",
    "he": "He's initial weights",
}


def _beginnings(results: Iterable[dict[str, Any]]) -> str:
    """What the trainings began with, where it was not PyTorch's weights alone."""
    found = {r.get("init", "torch") for r in results}
    return "" if found <= {"torch"} else "; " + " or ".join(_BEGINNINGS[name] for name in sorted(found))


def _listed(values: Iterable[int]) -> str:
    """Few numbers in full, many as their range."""
    found = sorted(set(values))
    return ", ".join(map(str, found)) if len(found) < 4 else f"{found[0]} to {found[-1]}"
