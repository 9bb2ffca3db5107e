"""What a user would try first: an isolation forest and Deep SVDD on the pixels, from scikit-learn and pyod."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradfast.detectors.metrics import auroc
from gradfast.errors import InputError
from gradfast.gradcon.study.cells import Cell
from gradfast.gradcon.study.data import OneClass

__all__ = ["BASELINES", "run_baseline"]

Pixels = NDArray[np.float32]
Scorer = Callable[[Pixels], NDArray[np.float64]]


def _forest(train: Pixels, seed: int) -> Scorer:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(train)
    return lambda x: -np.asarray(forest.score_samples(x))


def _deep_svdd(train: Pixels, seed: int) -> Scorer:
    try:
        from pyod.models.deep_svdd import DeepSVDD
    except ImportError as error:
        raise InputError(
            "baseline: Deep SVDD needs pyod, which is not installed: pip install pyod"
        ) from error
    model = DeepSVDD(n_features=train.shape[1], epochs=20, random_state=seed, verbose=0).fit(train)
    return lambda x: np.asarray(model.decision_function(x))


BASELINES: dict[str, Callable[[Pixels, int], Scorer]] = {
    "isolation forest": _forest,
    "Deep SVDD": _deep_svdd,
}


def run_baseline(cell: Cell, data: OneClass, directory: Path, *, limit: int | None = None) -> dict[str, Any]:
    """Fits a baseline of `BASELINES`, with its library's settings, to the same images and tests it on the same ones."""
    kept = directory / cell.folder.replace(" ", "-") / "result.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    train = _pixels(data.normal(cell.label, limit, cell.seed))
    score = BASELINES[cell.model](train, cell.seed)
    inside, outside = (score(_pixels(x)) for x in data.tested(cell.label, cell.seed))
    result = {
        "data": cell.data, "class": cell.label, "model": cell.model, "seed": cell.seed, "epochs": 0,
        "train_images": len(train), "test_images": [len(inside), len(outside)],
        "last": {"on pixels": auroc(inside, outside)},
    }  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _pixels(images: Tensor) -> Pixels:
    return images.flatten(1).float().div(255).numpy()
