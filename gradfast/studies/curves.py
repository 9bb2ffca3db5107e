"""Learning curves: how many images H needs, and whether more would help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from gradfast.detectors.metrics import auroc
from gradfast.errors import InputError
from gradfast.studies.cache import Arrays
from gradfast.studies.methods import MethodEntry
from gradfast.studies.protocols import Pairing, fitted_scorer, tested_scores
from gradfast.studies.remember import remembered
from gradfast.studies.results import Curve
from gradfast.studies.statistics import estimate
from gradfast.studies.workbench import Subject

__all__ = ["add_curves"]

_METHODS = ("purview-one-hot", "purview-all-ones", "penultimate")
_SMALLEST = 25


def add_curves(subject: Subject, pairings: Iterable[Pairing]) -> None:
    """Adds a curve of each method that has one, of those that the study runs, on each pairing."""
    bench = subject.bench
    for pairing in pairings:
        whole = min(
            len(group.side(bench.settings.seed, tested=False)) for group in (pairing.inside, pairing.outside)
        )
        sizes = [_SMALLEST]
        while 2 * sizes[-1] < whole:
            sizes.append(2 * sizes[-1])
        sizes = [size for size in sizes if size < whole] + [whole]
        for method in subject.methods:
            if method.name not in _METHODS:
                continue
            what = f"curve, {sizes}"
            fit = partial(_areas, method, pairing, sizes, bench.seeds)
            try:
                areas = remembered(bench.cache, what, method, [[pairing]], bench.seeds, fit)["areas"]
            except InputError as error:
                bench.blank(subject.entry, pairing.name, method.name, f"no learning curve: {error}")
                continue
            bench.found.curves.append(
                Curve(
                    subject.entry.name,
                    pairing.name,
                    method.name,
                    tuple(sizes),
                    tuple(estimate(row) for row in areas.tolist()),
                )
            )


def _areas(method: MethodEntry, pairing: Pairing, sizes: Sequence[int], seeds: Sequence[int]) -> Arrays:
    """AUROC, [sizes, seeds]."""
    areas = np.empty((len(sizes), len(seeds)))
    for i, size in enumerate(sizes):
        for j, seed in enumerate(seeds):
            scorer, _, _ = fitted_scorer(method, [pairing], seed, size)
            scores = [
                tested_scores(method, scorer, group, seed) for group in (pairing.inside, pairing.outside)
            ]
            areas[i, j] = auroc(*(found[~np.isnan(found)] for found in scores))
    return {"areas": areas}
