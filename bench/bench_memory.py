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
    "loop",
    "backpack",
    "opacus",
    "torchjd",
    "gradfast-all-ones",
    "forward-backward",
)


@pytest.mark.parametrize("name", ["resnet18-32"])
def test_memory(record: Callable[..., None], request: pytest.FixtureRequest, name: str) -> None:
    threads = request.config.getoption("--threads")
    peaks = {}
    for contender in CONTENDERS:
        added, error = peak_bytes(partial(build, name), contender, threads=threads, timeout=40)
        peaks[contender] = {"bytes": added, "error": error}
    record(kind="memory", task=name, peaks=peaks)
    assert peaks["gradfast"]["error"] is None, peaks["gradfast"]["error"]
