"""What a detector's test found, on disk: `evaluation.csv` (every metric of every split) and `evaluation.parquet` (the scores of
the first split, for figures).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradfast.detectors.evaluation import Outcome
from gradfast.detectors.metrics import DetectionMetrics
from gradfast.report.html import write_text

__all__ = ["EVALUATION", "SCORES", "outcomes_of", "scores_of", "write_outcomes"]

EVALUATION, SCORES = "evaluation.csv", "evaluation.parquet"
METRICS = tuple(field.name for field in fields(DetectionMetrics))
_KEY = ("method", "outliers", "protocol")
_NONE = np.empty(0)

Key = tuple[str, str, str]
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def write_outcomes(outcomes: Sequence[Outcome], directory: Path) -> None:
    """Writes both files to a directory."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_KEY, "split", *METRICS])
    for o in outcomes:
        for i, split in enumerate(o.splits):
            writer.writerow(
                [o.method, o.out_set, o.protocol, i, *(f"{getattr(split, m):.6f}" for m in METRICS)]
            )
    write_text(file.getvalue(), directory / EVALUATION)
    columns: dict[str, list[NDArray[np.float64]]] = {"score": []}
    keys: list[tuple[str, str, str, bool]] = []
    for o in outcomes:
        for known, scores in ((True, o.scores_in), (False, o.scores_out)):
            keys += [(o.method, o.out_set, o.protocol, known)] * len(scores)
            columns["score"].append(np.asarray(scores, dtype=np.float64))
    texts = {name: pa.array([key[i] for key in keys], pa.string()) for i, name in enumerate(_KEY)}
    known_column = pa.array([key[3] for key in keys], pa.bool_())
    scores_column = np.concatenate(columns["score"] or [_NONE])
    pq.write_table(pa.table({**texts, "known": known_column, "score": scores_column}), directory / SCORES)


def outcomes_of(rows: Iterable[Mapping[str, str]], scores: Mapping[Key, Pair] | None = None) -> list[Outcome]:
    """The outcomes of `evaluation.csv`'s rows, with their scores where there are some.

    Raises:
        KeyError, ValueError: not such rows.
    """
    splits: dict[Key, list[DetectionMetrics]] = {}
    for row in rows:
        key = (row["method"], row["outliers"], row["protocol"])
        splits.setdefault(key, []).append(DetectionMetrics(**{m: float(row[m]) for m in METRICS}))
    found = scores or {}
    return [Outcome(*key, tuple(of), *found.get(key, (_NONE, _NONE))) for key, of in splits.items()]


def scores_of(path: Path) -> dict[Key, Pair]:
    """What `evaluation.parquet` holds: scores of known samples and of outliers, by method, outlier set and protocol."""
    table = pq.read_table(path, columns=[*_KEY, "known", "score"])
    keys = list(zip(*(table[name].to_pylist() for name in _KEY), strict=True))
    known, scores = table["known"].to_numpy(), table["score"].to_numpy()
    places: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    found = {}
    for key, at in places.items():
        inside = known[at].astype(bool)
        found[key] = (scores[at][inside], scores[at][~inside])
    return found
