"""What a user would try first: an isolation forest and Deep SVDD on the pixels, from scikit-learn and pyod; PaDiM on features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gradfast.detectors.metrics import auroc
from gradfast.errors import InputError
from gradfast.gradcon.study.cells import Cell, read_kept
from gradfast.gradcon.study.data import OneClass
from gradfast.gradcon.study.padim import PatchGaussian
from gradfast.gradcon.training import image_sum

__all__ = ["BASELINES", "PADIM", "run_baseline"]

PADIM = "PaDiM-like"

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


def run_baseline(
    cell: Cell,
    data: OneClass,
    directory: Path,
    *,
    limit: int | None = None,
    features: nn.Module | None = None,
) -> dict[str, Any]:
    """Fits a baseline of `BASELINES`, with its library's settings, to the same images and tests it on the same ones.

    `PADIM` takes the network ``features``, which is to know nothing of the data set: one that was trained on its classes
    has seen the anomalies.

    Raises:
        InputError: `PADIM` without ``features``, a library that is not there, or a result that was kept of other images.
    """
    kept = directory / cell.folder / "result.json"
    train = data.normal(cell.label, limit, cell.seed)
    images = data.tested(cell.label, cell.seed)
    used = {
        "train_images": len(train),
        "test_images": [len(x) for x in images],
        "sums": [image_sum(x) for x in (train, *images)],
    }
    found = read_kept(kept, used)
    if found is not None:
        return found
    if cell.model == PADIM:
        if features is None:
            raise InputError(f"features: got None; wanted a network for {PADIM}")
        on, patches = "on features", PatchGaussian(features, train, seed=cell.seed)
        inside, outside = (patches(x) for x in images)
    else:
        on, score = "on pixels", BASELINES[cell.model](_pixels(train), cell.seed)
        inside, outside = (score(_pixels(x)) for x in images)
    result = {
        "data": cell.data, "class": cell.label, "model": cell.model, "seed": cell.seed, "epochs": 0,
        **used, "last": {on: auroc(inside, outside)},
    }  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _pixels(images: Tensor) -> Pixels:
    return images.flatten(1).float().div(255).numpy()
