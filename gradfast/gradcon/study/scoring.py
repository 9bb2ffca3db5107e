"""Scores of every image of a set, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradfast.data import Preprocess, open_images
from gradfast.gradcon.checkpoint import load_scorer, read_checkpoint
from gradfast.gradcon.scores import Scores
from gradfast.gradcon.study.data import SIZE, digits
from gradfast.gradcon.training import Epoch, as_float
from gradfast.progress import SampleProgress

__all__ = ["epoch_table", "score_images", "tested_table"]

_STANDARD = 1000


def score_images(
    checkpoint: Path,
    data: str,
    *,
    batch_size: int = 64,
    weight: float = 0.12,
    limit: int | None = None,
    normal: str | None = None,
    progress: bool = True,
) -> pa.Table:
    """Reads, scores and forgets the images batch by batch.

    ``normal``: normal images, best ones that the training did not see, of which the first 1,000 standardise the gradient score.

    Columns: `index`, `label` (int64, -1 unknown), the scores (float32), `cosine NAME` by tensor (float32), `flagged` (bool).
    """
    scorer = load_scorer(checkpoint, weight=weight, batch_size=batch_size)
    architecture = read_checkpoint(checkpoint).facts["architecture"]
    images = _opened(data, architecture, limit)
    if normal is not None:
        known = _opened(normal, architecture, _STANDARD)
        scorer = scorer.standardised(torch.stack([known[i][0] for i in range(len(known))]))
    parts: list[Scores] = []
    labels: list[int] = []
    with SampleProgress(len(images), progress, doing="scoring") as bar:
        for start in range(0, len(images), batch_size):
            batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
            parts.append(scorer(torch.stack([x for x, _ in batch])))
            labels += [int(y) for _, y in batch]
            bar.advance(len(batch))
    scores = Scores.concatenate(parts)
    columns: dict[str, Any] = {"index": range(len(labels)), "label": labels, **scores.by_name()}
    columns |= {f"cosine {name}": scores.cosines[:, i] for i, name in enumerate(scores.layers)}
    return pa.table({**columns, "flagged": scores.flagged})


def tested_table(normal: Scores, others: Scores, label: int) -> pa.Table:
    """Scores of the test images, the normal ones first.

    Columns: `index`, `label` (int64, -1 of anomalous ones), `anomalous` (bool), the scores (float32).
    """
    first, second = normal.by_name(), others.by_name()
    counts = len(normal.flagged), len(others.flagged)
    anomalous = [False] * counts[0] + [True] * counts[1]
    labels = [-1 if other else label for other in anomalous]
    scores = {name: np.concatenate([first[name], second[name]]) for name in first}
    return pa.table({"index": range(sum(counts)), "label": labels, "anomalous": anomalous, **scores})


def epoch_table(history: Sequence[Epoch], layers: Sequence[str]) -> pa.Table:
    """The epochs of a training: `epoch`, `loss`, `reconstruction`, `divergence`, `validation`, `cosine NAME` by tensor, `seconds`."""
    columns: dict[str, Any] = {
        "epoch": [e.number for e in history],
        "loss": [e.total for e in history],
        **{
            name: [getattr(e, name) for e in history]
            for name in ("reconstruction", "divergence", "validation")
        },
        **{f"cosine {name}": [e.cosines[i] for e in history] for i, name in enumerate(layers)},
        "seconds": [e.seconds for e in history],
    }
    return pa.table(columns)


def _opened(data: str, architecture: dict[str, Any], limit: int | None) -> Any:
    """Images and labels, by index."""
    if data == "digits":
        test = digits().test
        return list(zip(as_float(test.images), test.labels.tolist(), strict=True))[:limit]
    size = tuple(architecture.get("size", (SIZE, SIZE)))
    return open_images(data, Preprocess(size=size, channels=architecture["channels"]), limit=limit)
