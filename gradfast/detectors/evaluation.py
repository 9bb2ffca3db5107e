"""Detectors held against known outliers, on samples that neither they nor their threshold have seen.

Protocols, which are reported side by side and never mixed:

- "same set": the detector saw one part of the very outlier set that it is tested on, as in the papers that
  train H;
- "all sets": it saw one part of every outlier set at hand, the tested one among them;
- "left out": it saw parts of all the other outlier sets, and none of the one that it is tested on;
- "as saved": what it saw was decided earlier, and is not known here;
- "none": it saw no outliers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from gradfast.detectors.base import Detector
from gradfast.detectors.metrics import DetectionMetrics, evaluate
from gradfast.errors import InputError

__all__ = [
    "ALL_SETS",
    "AS_SAVED",
    "LEFT_OUT",
    "NO_OUTLIERS",
    "SAME_SET",
    "Method",
    "Outcome",
    "halves",
    "run_protocols",
]

SAME_SET = "same set"
ALL_SETS = "all sets"
LEFT_OUT = "left out"
AS_SAVED = "as saved"
NO_OUTLIERS = "none"


class Samples(Protocol):
    """Features with a length that can be indexed by rows: `gradfast.Features`, NumPy arrays."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class Method:
    """A named way to score samples.

    `make` gives an unfitted detector; `inside` and `outside` are its features of the in-distribution samples
    and of each outlier set, in the same order of samples for every method that is compared. `learns` says
    whether the detector is fitted to outliers; if not, the protocols do not differ and it is scored once.
    """

    name: str
    make: Callable[[], Detector]
    inside: Samples
    outside: Mapping[str, Samples]
    learns: bool = True


@dataclass(frozen=True)
class Outcome:
    """One method on one outlier set under one protocol.

    `splits` has the metrics of each random split, `scores_in` and `scores_out` the scores [n] of the first,
    NaN left out.
    """

    method: str
    out_set: str
    protocol: str
    splits: tuple[DetectionMetrics, ...]
    scores_in: NDArray[np.float64]
    scores_out: NDArray[np.float64]

    @property
    def mean(self) -> DetectionMetrics:
        """Each metric averaged over the splits."""
        return DetectionMetrics(**{name: float(np.mean(values)) for name, values in self._columns().items()})

    @property
    def spread(self) -> DetectionMetrics | None:
        """Each metric's standard deviation over the splits; None for a single split."""
        if len(self.splits) < 2:
            return None
        return DetectionMetrics(**{name: float(np.std(v, ddof=1)) for name, v in self._columns().items()})

    def _columns(self) -> dict[str, list[float]]:
        return {f.name: [getattr(split, f.name) for split in self.splits] for f in fields(DetectionMetrics)}


def halves(n: int, test_fraction: float = 0.5, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to fit on and to test on: a random partition of range(n), sorted.

    It depends on the three arguments alone, so sets of equal length that hold versions of the same images
    (clean and corrupted, say) are split alike, and no image is on both sides.
    """
    if not 0.0 < test_fraction < 1.0:
        raise InputError(f"test_fraction: got {test_fraction}, wanted a share between 0 and 1")
    tested = round(n * test_fraction)
    if not 0 < tested < n:
        raise InputError(
            f"test_fraction: {test_fraction} of {n} samples leaves none to fit on or none to test on"
        )
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[tested:]), np.sort(order[:tested])


def run_protocols(
    methods: Sequence[Method],
    *,
    test_fraction: float = 0.5,
    seeds: Sequence[int] = (0,),
    pool: bool = False,
) -> list[Outcome]:
    """Scores every method on every outlier set under every protocol that applies to it.

    A method that learns is fitted per set ("same set"), or with `pool` to all of them ("all sets"); and,
    where there is more than one set, with each in turn "left out". All methods and protocols of one seed are
    tested on the same samples.
    """
    if not seeds:
        raise InputError("seeds: got none, wanted at least one")
    outcomes = []
    # Many small fits: threads of the BLAS would only wait for each other.
    with threadpool_limits(limits=1, user_api="blas"):
        for method in methods:
            for tested in method.outside:
                for protocol, learned in _protocols(method, tested, pool).items():
                    scored = [_score_split(method, tested, learned, test_fraction, seed) for seed in seeds]
                    splits = tuple(evaluate(*pair) for pair in scored)
                    outcomes.append(Outcome(method.name, tested, protocol, splits, *scored[0]))
    return outcomes


def _protocols(method: Method, tested: str, pool: bool) -> dict[str, list[str]]:
    """Protocol to the outlier sets that the method learns from."""
    if not method.learns:
        return {NO_OUTLIERS: []}
    names = list(method.outside)
    others = [name for name in names if name != tested]
    if not others:
        return {SAME_SET: [tested]}
    return {**({ALL_SETS: names} if pool else {SAME_SET: [tested]}), LEFT_OUT: others}


def _score_split(
    method: Method, tested: str, learned: Sequence[str], test_fraction: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    fit_in, test_in = halves(len(method.inside), test_fraction, seed)
    detector = method.make()
    if method.learns:
        seen = [method.outside[name] for name in learned]
        parts = [rows[halves(len(rows), test_fraction, seed)[0]] for rows in seen]
        detector.fit(method.inside[fit_in], parts[0] if len(parts) == 1 else concatenate(parts))
    else:
        detector.fit(method.inside[fit_in])
    outliers = method.outside[tested]
    _, test_out = halves(len(outliers), test_fraction, seed)
    return finite(detector.score(method.inside[test_in])), finite(detector.score(outliers[test_out]))


def concatenate(parts: Sequence[Any]) -> Any:
    """Samples of several sets as one: `Features.concat` for Features, NumPy's for arrays."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return type(parts[0]).concat(list(parts))


def finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores that are not NaN: a flagged sample has no score and takes no part in the metrics."""
    return scores[~np.isnan(scores)]
