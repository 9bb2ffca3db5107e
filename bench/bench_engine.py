"""`gradfast.grad_norms` against every other way to the same norms, in turn, in one process.

A round runs each contender once (gradfast.bench.Race), so what pytest-benchmark times is the round; the times of the contenders
and the medians are in extra_info. Every contender's norms are first checked against float64 autograd. How each one is used
is said where it is defined, in gradfast/bench/contenders.py and gradfast/bench/libraries.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.models import TASKS
from gradfast.bench import Race, contenders, libraries

MOST_ROUNDS = 7


@pytest.mark.parametrize("name", TASKS)
def test_engine(
    benchmark: BenchmarkFixture,
    record: Callable[..., None],
    name: str,
    seconds: float,
    longest: float,
    limit: float,
) -> None:
    start = time.perf_counter()
    race = Race(TASKS[name](), contenders() + libraries(), longest=longest)
    race.prepare(limit / 2)
    left = 0.9 * limit - (time.perf_counter() - start)
    # At least two rounds, whatever time was meant for them, if that does not break the limit.
    rounds = min(MOST_ROUNDS, max(1, int(min(max(seconds, 2 * race.estimate()), left) / race.estimate())))
    benchmark.pedantic(race.round, rounds=rounds, iterations=1)
    record(kind="engine", **race.as_dict())
    assert race["gradfast"].error is None, race["gradfast"].error
    assert race["gradfast"].deviation <= 1e-3
    assert race["gradfast-bf16"].error is None, race["gradfast-bf16"].error
