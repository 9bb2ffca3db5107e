"""What a call asks of the C library: freed memory is kept for the next chunk, unless the user has decided otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from gradfast.engine import host

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's thresholds"),
    pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own malloc"),
]

FAULTS = """
import resource
import sys
import torch
from torch import nn
import gradfast
from gradfast.engine.host import keep_freed_memory

convolutions = [layer for _ in range(4) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
x = torch.randn(16, 3, 32, 32)
fewest = float("inf")
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    gradfast.grad_norms(model, x, memory_budget=sys.argv[1] if sys.argv[1:] else None)
    fewest = min(fewest, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(keep_freed_memory(), fewest)
"""


def run(*arguments: str, **environment: str) -> tuple[str, int]:
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
    out = subprocess.run(
        [sys.executable, "-c", FAULTS, *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return out[0], int(out[1])


def test_a_later_call_finds_its_pages_mapped() -> None:
    kept, faults = run()
    assert kept == "True"
    assert faults < 2000  # some 15,000 where all is given back


def test_far_below_its_budget_a_call_gives_nothing_back() -> None:
    _, faults = run("2GB")
    assert faults < 2000  # 9,000 where each block gave back what it had freed


def test_near_its_budget_a_call_gives_freed_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    resident = iter([1000, 1000, 1089, 1091, 1091, 1050])
    monkeypatch.setattr(host, "_resident", lambda: next(resident))
    monkeypatch.setattr(host, "release_freed_memory", lambda: given.append(len(given)))
    monkeypatch.setattr(host.Watch, "_base", None)
    monkeypatch.setattr(host.Watch, "_left", 0)
    watch = host.Watch(100)
    with watch:  # 1000 in use, after what lay free before was given back
        assert len(given) == 1
        watch.check()  # 89 of 100
        assert len(given) == 1
        watch.check()  # 91
        assert len(given) == 2
        watch.passed(2)  # not yet more than a fiftieth
        assert len(given) == 2
        watch.passed(1)
        assert len(given) == 3
    assert (host.Watch._base, host.Watch._left) == (1000, 50)


@pytest.mark.parametrize(
    "environment",
    [
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1048576"},
        {"MALLOC_TRIM_THRESHOLD_": "1048576"},
        {"MALLOC_MMAP_THRESHOLD_": "1048576"},
    ],
)
def test_the_user_s_own_thresholds_are_left(environment: dict[str, str]) -> None:
    kept, faults = run(**environment)
    assert kept == "False"
    assert faults > 5000
