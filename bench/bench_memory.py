"""Peak memory of each contender in a child process of its own, over that of the model and the samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from bench.models import build
from gradfast.bench.memory import peak_bytes

CONTENDERS = (
    "gradfast",
    "gradfast-bf16",
    "input-gradient",
    "input-gradient-nhwc",
    "gradfast-all-ones",
    "forward-backward",
    "loop",
    "backpack",
    "opacus",
    "torchjd",
)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("name", ["resnet18-32"])
def test_memory(
    record: Callable[..., None], request: pytest.FixtureRequest, name: str, contender: str, limit: float
) -> None:
    threads = request.config.getoption("--threads")
    added, error = peak_bytes(partial(build, name), contender, threads=threads, timeout=min(60, limit / 4))
    record(kind="memory", task=name, contender=contender, bytes=added, error=error)
    assert error is None or not contender.startswith("gradfast"), error
