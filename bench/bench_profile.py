"""Where one call of `gradfast.grad_norms` spends its time, by `gradfast.explain`: what explains a target that is met or missed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import gradfast
from bench.models import TASKS
from bench.targets import TASK
from gradfast.explanation import Explanation

ROUNDS = 3
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


def parts(plan: Explanation, forward: float) -> dict[str, float]:
    """Seconds of a call, by what they went to; they add up to the whole of it.

    ``forward`` is what a forward pass without gradients takes in the model's dtype.
    """
    found = dict.fromkeys(("winograd", "backward-data", "fused gates", "norms", "other"), 0.0)
    for step in plan.steps:
        if step.way in ("winograd", "fused"):
            found["winograd" if step.way == "winograd" else "fused gates"] += step.seconds
        else:
            found["backward-data" if step.operation == "ConvolutionBackward0" else "other"] += step.seconds
    found["norms"] = sum(layer.seconds for layer in plan.layers)
    found["forward"] = forward
    found["recording"] = max(0.0, plan.seconds - plan.backward_seconds - forward)
    found["other"] += max(0.0, plan.seconds - sum(found.values()))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_profile(benchmark: BenchmarkFixture, record: Callable[..., None], dtype: str) -> None:
    task = TASKS[TASK]()

    def forward() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            task.model(task.x)
        return time.perf_counter() - start

    def profile() -> dict[str, float]:
        once = forward()
        plan = gradfast.explain(task.model, task.x, dtype=DTYPES[dtype])
        return {"all": plan.seconds, **parts(plan, once)}

    forward()
    rounds: list[dict[str, float]] = []
    benchmark.pedantic(lambda: rounds.append(profile()), rounds=ROUNDS, iterations=1, warmup_rounds=1)
    middle = sorted(rounds[1:], key=lambda r: r["all"])[ROUNDS // 2]
    record(kind="profile", task=TASK, dtype=dtype, samples=len(task.x), parts=middle)
    assert middle["all"] > 0
