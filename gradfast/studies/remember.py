"""Outcomes that are kept: a study that is run again fits only what it has not fitted before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from gradfast.detectors.evaluation import Outcome
from gradfast.detectors.metrics import DetectionMetrics
from gradfast.studies.cache import Arrays, Cache, digest
from gradfast.studies.methods import MethodEntry
from gradfast.studies.protocols import Group, Pairing, Tested, run_method
from gradfast.studies.results import METRICS

__all__ = ["remembered", "remembered_run"]


def remembered(
    cache: Cache,
    what: str,
    method: MethodEntry,
    pairings: Sequence[Sequence[Pairing]],
    seeds: Sequence[int],
    compute: Callable[[], Arrays],
) -> Arrays:
    """The arrays that `compute` gives, kept by all that they depend on: features, images, splits, and the code of H.

    Args:
        cache: where they are kept.
        what: they are.
        method: that is fitted.
        pairings: what it is tested on, and what it is fitted to.
        seeds: of the splits.
        compute: makes them.
    """
    key = {
        "what": what, "method": method.name, "seeds": list(seeds), "code": _code(), "scikit-learn": sklearn.__version__,
        "numpy": np.__version__, "pairings": [[_facts(pairing, method) for pairing in each] for each in pairings],
    }  # fmt: skip
    folder = cache.folder("outcomes", key)
    found = cache.get(folder, 0)
    if found is None:
        found = compute()
        cache.put(folder, 0, found)
    return found


def remembered_run(
    cache: Cache,
    method: MethodEntry,
    tested: Sequence[Pairing],
    learned: Sequence[Pairing],
    protocol: str,
    seeds: Sequence[int],
) -> list[Tested]:
    """`run_method`, kept."""

    def compute() -> Arrays:
        arrays: Arrays = {}
        for i, one in enumerate(run_method(method, tested, learned, protocol, seeds)):
            splits = [[getattr(split, name) for name in METRICS] for split in one.outcome.splits]
            arrays |= {
                f"{i}.splits": np.array(splits),
                f"{i}.in": one.outcome.scores_in,
                f"{i}.out": one.outcome.scores_out,
                f"{i}.counts": np.array([one.fit_in, one.fit_out, one.test_in, one.test_out, one.scoreless]),
            }
        return arrays

    found = remembered(cache, protocol, method, [tested, learned], seeds, compute)
    outcomes = []
    for i, pairing in enumerate(tested):
        splits = tuple(DetectionMetrics(*map(float, row)) for row in found[f"{i}.splits"])
        outcome = Outcome(method.title, pairing.name, protocol, splits, found[f"{i}.in"], found[f"{i}.out"])
        outcomes.append(Tested(outcome, *map(int, found[f"{i}.counts"])))
    return outcomes


def _facts(pairing: Pairing, method: MethodEntry) -> list[Any]:
    return [_of_group(pairing.inside, method), _of_group(pairing.outside, method)]


def _of_group(group: Group, method: MethodEntry) -> list[Any]:
    return [group.pool, digest(group.images), group.digest(method)]


@cache
def _code() -> str:
    """Hex SHA-256 of the modules that turn features into figures: outcomes of other code are not taken."""
    found = hashlib.sha256()
    here = Path(__file__).parent
    modules = [here / name for name in ("methods.py", "protocols.py", "scorers.py", "statistics.py")]
    # Not the packages in it: sources have fingerprints of their own.
    modules += sorted((here.parent / "detectors").glob("*.py"))
    for module in modules:
        found.update(module.read_bytes())
    return found.hexdigest()
