"""A method fitted and tested on random halves of the images, so that no image is on both sides.

A *contrast set* pairs samples in with samples out; each sample belongs to a numbered image of a pool, and the pool is
split, not the samples: versions of one image (clean, attacked, corrupted) are on the same side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradfast.detectors.evaluation import Outcome, halves
from gradfast.detectors.metrics import DetectionMetrics, evaluate
from gradfast.errors import InputError
from gradfast.studies.cache import digest
from gradfast.studies.columns import Columns
from gradfast.studies.methods import MethodEntry
from gradfast.studies.scorers import Matrix, Scorer

__all__ = ["Group", "Pairing", "Tested", "fitted_scorer", "run_method", "score_rows", "tested_scores"]

LEAST = 2  # samples of either kind to fit to, and to test on
MOST = 4  # samples out per sample in, where several sets out are learned from


@dataclass(frozen=True)
class Group:
    """Samples with what the methods read of them.

    Attributes:
        columns: by name, [n, ...] each.
        images: int64 [n], each sample's image in its pool.
        pool: how many images there are.
    """

    columns: Mapping[str, Columns]
    images: NDArray[np.int64]
    pool: int

    def side(self, seed: int, *, tested: bool) -> NDArray[np.int64]:
        """Rows of the half that is tested, or of that which is fitted to."""
        fit, test = halves(self.pool, 0.5, seed)
        return np.flatnonzero(np.isin(self.images, test if tested else fit))

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def _matrices(self) -> dict[str, Matrix]:
        return {}

    def matrix(self, method: MethodEntry) -> Matrix:
        """What the method reads, [n, d]; kept while one method is at work."""
        if method.name not in self._matrices:
            self._matrices.clear()
            self._matrices[method.name] = method.matrix(self.columns)
        return self._matrices[method.name]

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    def digest(self, method: MethodEntry) -> str:
        """Hex SHA-256 of `matrix`."""
        if method.name not in self._digests:
            self._digests[method.name] = digest(self.matrix(method))
        return self._digests[method.name]


@dataclass(frozen=True)
class Pairing:
    """Samples out under a name, and the samples in that they are held against."""

    name: str
    inside: Group
    outside: Group


@dataclass(frozen=True)
class Tested:
    """An outcome, and how many samples it stands on: of the first split."""

    outcome: Outcome
    fit_in: int
    fit_out: int
    test_in: int
    test_out: int
    scoreless: int


def run_method(
    method: MethodEntry,
    tested: Sequence[Pairing],
    learned: Sequence[Pairing],
    protocol: str,
    seeds: Sequence[int],
) -> list[Tested]:
    """Fits the method to one half of what it may learn from, and tests it on the other half of each of `tested`.

    Args:
        method: its `learns` says whether samples out of `learned` are used.
        tested: what it is tested on, all by the same fit.
        learned: what it is fitted to.
        protocol: a name for it.
        seeds: one split each.

    Raises:
        InputError: too few samples on a side, or none with a score.
    """
    splits: list[list[DetectionMetrics]] = [[] for _ in tested]
    first: list[tuple[list[NDArray[np.float64]], tuple[int, int, int]]] = []
    for seed in seeds:
        scorer, fit_in, fit_out = fitted_scorer(method, learned, seed)
        for number, pairing in enumerate(tested):
            scored = [
                tested_scores(method, scorer, group, seed) for group in (pairing.inside, pairing.outside)
            ]
            scoreless = sum(int(np.isnan(found).sum()) for found in scored)
            scored = [found[~np.isnan(found)] for found in scored]
            for kind, scores in zip(("in", "out"), scored, strict=True):
                if len(scores) < LEAST:
                    raise InputError(
                        f"{pairing.name}: {len(scores)} samples {kind} with a score to test on; wanted at least {LEAST}"
                    )
            splits[number].append(evaluate(*scored))
            if seed == seeds[0]:
                first.append((scored, (fit_in, fit_out, scoreless)))
    return [
        Tested(Outcome(method.title, pairing.name, protocol, tuple(found), *scored),
               fit_in, fit_out, len(scored[0]), len(scored[1]), scoreless)
        for pairing, found, (scored, (fit_in, fit_out, scoreless)) in zip(tested, splits, first, strict=True)
    ]  # fmt: skip


def tested_scores(method: MethodEntry, scorer: Scorer, group: Group, seed: int) -> NDArray[np.float64]:
    """Scores of the half of a group that is tested; NaN where a sample is not finite."""
    return score_rows(scorer, group.matrix(method)[group.side(seed, tested=True)])


def fitted_scorer(
    method: MethodEntry, learned: Sequence[Pairing], seed: int, most: int | None = None
) -> tuple[Scorer, int, int]:
    """A scorer fitted to the halves of `learned` that are not tested, and how many samples in and out it saw.

    Samples in that several pairings share count once. Of several sets out, each gives at most an equal share of
    `MOST` times as many as there are samples in. With `most`, so many samples of either kind, drawn at random.
    """
    inside = _drawn(_finite(np.concatenate(_inside_parts(method, learned, seed))), seed, most)
    parts = []
    if method.learns:
        share = None if len(learned) == 1 else max(1, MOST * len(inside) // len(learned))
        for pairing in learned:
            rows = pairing.outside.side(seed, tested=False)
            if share is not None and len(rows) > share:
                rows = np.sort(np.random.default_rng(seed).permutation(rows)[:share])
            parts.append(pairing.outside.matrix(method)[rows])
    outside = _drawn(_finite(np.concatenate(parts)), seed, most) if parts else None
    for kind, found in (("in", inside), ("out", outside)):
        if found is not None and len(found) < LEAST:
            names = ", ".join(pairing.name for pairing in learned)
            raise InputError(f"{names}: {len(found)} samples {kind} to fit to; wanted at least {LEAST}")
    scorer = method.make(seed, method.norms(learned[0].inside.columns))
    scorer.fit(inside, outside)
    return scorer, len(inside), 0 if outside is None else len(outside)


def score_rows(scorer: Scorer, rows: Matrix) -> NDArray[np.float64]:
    """Scores [n]; NaN where a sample is not finite."""
    scores = np.full(len(rows), np.nan)
    usable = np.isfinite(rows).all(axis=1)
    if usable.any():
        scores[usable] = scorer.score(rows[usable])
    return scores


def _inside_parts(method: MethodEntry, learned: Sequence[Pairing], seed: int) -> list[Matrix]:
    parts: list[Matrix] = []
    known: set[int] = set()  # pairings of one study share the pool of images in
    for pairing in learned:
        rows = pairing.inside.side(seed, tested=False)
        rows = np.array([row for row in rows if int(pairing.inside.images[row]) not in known], dtype=np.int64)
        known.update(pairing.inside.images[rows].tolist())
        parts.append(pairing.inside.matrix(method)[rows])
    return parts


def _finite(rows: Matrix) -> Matrix:
    return rows[np.isfinite(rows).all(axis=1)]


def _drawn(rows: Matrix, seed: int, most: int | None) -> Matrix:
    # One order per seed: a smaller draw is part of a larger one.
    return rows if most is None else rows[np.random.default_rng(seed).permutation(len(rows))[:most]]
