"""Abnormal conditions: a model of one class's clean images, shown the same class under eight corruptions at five levels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gradfast.corruptions import CORRUPTIONS, LEVELS, corrupt
from gradfast.detectors.metrics import auroc
from gradfast.gradcon.checkpoint import load_scorer, read_checkpoint
from gradfast.gradcon.study.cells import Cell, constrained
from gradfast.gradcon.study.data import OneClass
from gradfast.gradcon.training import TrainingSettings, as_float, split_rows

__all__ = ["condition_table", "run_conditions"]


def run_conditions(
    cell: Cell,
    data: OneClass,
    directory: Path,
    *,
    images: int = 100,
    limit: int | None = None,
    names: Iterable[str] = tuple(CORRUPTIONS),
) -> dict[str, Any]:
    """AUROC of clean against corrupted test images of the class, and the rank correlation of the scores with the level.

    Half of ``images`` is left clean and the other half corrupted, so that no image is on both sides. The model is the one that `run_cell`
    has trained last, with the same ``limit``: scores are standardised on what it held out. A result that was kept is read, unless the
    model was trained on since.
    """
    folder = directory / cell.folder
    kept, model = folder / f"conditions-{images}.json", folder / "last.safetensors"
    # Results may be there without their models.
    epochs = len(read_checkpoint(model).facts["history"]) if model.exists() else None
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        if epochs is None or found.get("epochs") == epochs:
            return found
    normal_images = data.normal(cell.label, limit, cell.seed)
    held_out, _ = split_rows(len(normal_images), TrainingSettings(seed=cell.seed))
    scorer = load_scorer(model)
    if len(held_out) > 1:
        scorer = scorer.standardised(normal_images[held_out])
    inside = as_float(data.tested(cell.label, cell.seed)[0][:images])
    clean, others = inside[::2], inside[1::2]
    normal = scorer(clean).by_name()
    areas: dict[str, dict[str, list[float]]] = {}
    ranks: dict[str, dict[str, float]] = {}
    for name in names:
        by_level = [scorer(corrupt(others, name, level, seed=cell.seed)).by_name() for level in LEVELS]
        areas[name] = {s: [auroc(normal[s], found[s]) for found in by_level] for s in normal}
        levels = np.repeat(LEVELS, len(others))
        ranks[name] = {
            s: float(spearmanr(np.concatenate([found[s] for found in by_level]), levels).statistic)
            for s in normal
        }
    result = {"data": cell.data, "class": cell.label, "model": cell.model, "seed": cell.seed, "epochs": epochs,
              "images": images, "auroc": areas, "spearman": ranks}  # fmt: skip
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result


def condition_table(results: list[dict[str, Any]]) -> str:
    """Markdown: AUROC by corruption and level, and Spearman's correlation with the level; means over classes and seeds."""
    lines = [
        "| corruption | model | score | "
        + " | ".join(f"level {n}" for n in LEVELS)
        + " | rank correlation |",
        "|---|---|---|" + "---|" * (len(LEVELS) + 1),
    ]
    models = list(dict.fromkeys(r["model"] for r in results))
    for name in results[0]["auroc"]:
        for model in models:
            mine = [r for r in results if r["model"] == model]
            of_gradient = ("gradient", "standardised") if constrained(model) else ()
            for score in ("reconstruction", *of_gradient):
                if not all(score in r["auroc"][name] for r in mine):
                    continue
                areas = np.mean([r["auroc"][name][score] for r in mine], axis=0)
                rank = np.nanmean([r["spearman"][name][score] for r in mine])
                lines.append(
                    f"| {name} | {model} | {score} | {' | '.join(f'{a:.3f}' for a in areas)} | {rank:.2f} |"
                )
    return "\n".join(lines)
