"""AddressSanitizer, UBSan and ThreadSanitizer over the kernels; each must pass the kernels and catch seeded bugs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .build import (
    ADDRESS,
    BUILD,
    CUDA,
    DRIVERS,
    PLAIN,
    THREAD,
    CannotBuildError,
    Sanitizer,
    build_driver,
    leave_out,
)

pytestmark = pytest.mark.slow

SANITIZERS = {s.name: s for s in (PLAIN, THREAD, ADDRESS)}
SCHEDULES = [("late", 0), ("eager", 0), ("late", 5)]


def run(program: Path, cp_async: str, seed: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "GRADFAST_EMULATOR_CP_ASYNC": cp_async,
        "GRADFAST_EMULATOR_SEED": str(seed),
        # Kernels that race do so thousands of times: the first is enough.
        "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    # Sanitizers want their shadow memory where address randomization may have put something else.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    return subprocess.run(
        [*fixed, str(program)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def build(name: str, sanitizer: Sanitizer, *changed: object) -> Path:
    try:
        return build_driver(name, sanitizer, *changed)  # type: ignore[arg-type]
    except CannotBuildError as error:
        leave_out(str(error))


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_the_kernels_are_clean(driver: str, sanitizer: str) -> None:
    program = build(driver, SANITIZERS[sanitizer])
    for cp_async, seed in SCHEDULES:
        result = run(program, cp_async, seed)
        assert result.returncode == 0, f"{cp_async}, seed {seed}:\n{result.stdout}{result.stderr[-3000:]}"
        assert result.stdout == f"{driver}: ok\n"


@dataclass(frozen=True)
class Bug:
    """A change of one kernel file, and what must be said of it."""

    file: str
    old: str
    new: str
    driver: str
    caught: dict[tuple[str, str], str]  # (sanitizer, cp.async) -> words of its report


RACE = "data race"
WRONG = "wanted"  # what a driver prints of a wrong result
BUGS = {
    "no barrier before reading a stage": Bug(
        "pipeline.cuh",
        "wait_async<kStages - 2>();\n        __syncthreads();",
        "wait_async<kStages - 2>();",
        "direct",
        {("thread", "late"): RACE, ("plain", "late"): WRONG},
    ),
    "one copy too few waited for": Bug(
        "pipeline.cuh",
        "wait_async<kStages - 2>",
        "wait_async<kStages - 1>",
        "gram",
        {("plain", "late"): WRONG},
    ),
    "stage overwritten while it is read": Bug(
        "pipeline.cuh",
        "__syncthreads();\n        if (step + kStages - 1 < total) issue(write);",
        "if (step + kStages - 1 < total) issue(write);\n        __syncthreads();",
        "dot",
        {("thread", "eager"): RACE},
    ),
    "no barrier before the block's sum": Bug(
        "pipeline.cuh",
        "wait_async<0>();\n    __syncthreads();",
        "wait_async<0>();",
        "direct",
        {("thread", "late"): RACE},
    ),
    "sums folded without a barrier": Bug(
        "channel.cu",
        "            __syncthreads();\n            for (int i = threadIdx.x; i < across * kPack",
        "            for (int i = threadIdx.x; i < across * kPack",
        "channel",
        {("thread", "late"): RACE, ("plain", "late"): WRONG},
    ),
    "folding overwritten while it is read": Bug(
        "channel.cu",
        "            __syncthreads();\n#pragma unroll\n            for (int e",
        "#pragma unroll\n            for (int e",
        "channel",
        {("thread", "late"): RACE},
    ),
    "columns not bounded": Bug(
        "operand.cuh",
        "if (!position.present || column >= op.width) return -1;",
        "if (!position.present) return -1;",
        "direct",
        {("address", "eager"): "heap-buffer-overflow"},
    ),
    "positions not bounded": Bug(
        "operand.cuh",
        "t < positions.count}",
        "true}",
        "gram",
        {("address", "late"): "heap-buffer-overflow"},
    ),
    "less shared memory than the stages take": Bug(
        "direct.cu",
        "T::kThreads, T::kDynamicBytes, stream",
        "T::kThreads, T::kDynamicBytes - T::kDynamicBytes / T::kStages, stream",
        "direct",
        {("address", "eager"): "heap-buffer-overflow"},
    ),
    "one accumulator too many": Bug(
        "direct.cu",
        "for (int i = 0; i < T::kCount; ++i) square",
        "for (int i = 0; i <= T::kCount; ++i) square",
        "direct",
        {("address", "late"): "stack-buffer-overflow"},
    ),
    "gradients folded without a barrier": Bug(
        "depthwise.cu",
        "        __syncthreads();\n        for (int i = threadIdx.x; i < kColumns * width",
        "        for (int i = threadIdx.x; i < kColumns * width",
        "depthwise",
        {("thread", "late"): RACE, ("plain", "late"): WRONG},
    ),
    "channels not bounded": Bug(
        "depthwise.cu",
        "const bool present = channel < p.channels;",
        "const bool present = true;",
        "depthwise",
        {("address", "late"): "heap-buffer-overflow"},
    ),
    "packs misaligned": Bug(
        "channel.cu",
        "* p.channels + channel;\n        Accumulator gate",
        "* p.channels + channel + 1;\n        Accumulator gate",
        "channel",
        {("address", "late"): "misaligned address"},
    ),
    "run reads past the last token": Bug(
        "embedding.cu",
        "if (t + 1 < p.positions && tokens[t + 1] == tokens[t])",
        "if (tokens[t + 1] == tokens[t])",
        "embedding",
        {("address", "late"): "heap-buffer-overflow"},
    ),
    "lanes of one warp part before a shuffle": Bug(
        "channel.cu",
        "        sum = warp_sum(sum);\n        if (lane == 0) static_cast<Accumulator*>(p.sums)[plane] = sum;",
        "        if (lane < 16) sum = warp_sum(sum);\n"
        "        if (lane == 0) static_cast<Accumulator*>(p.sums)[plane] = sum;",
        "channel",
        {("plain", "late"): "collective"},
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(name: str) -> None:
    bug = BUGS[name]
    variant = name.replace(" ", "-").replace("'", "")
    kernels = BUILD / "seeded" / variant
    kernels.mkdir(parents=True, exist_ok=True)
    for source in (CUDA / "kernels").iterdir():
        text = source.read_text()
        if source.name == bug.file:
            assert text.count(bug.old) == 1, f"{bug.file} no longer has one place for this bug"
            text = text.replace(bug.old, bug.new)
        target = kernels / source.name
        if not target.exists() or target.read_text() != text:  # leaves ninja nothing to do on the next run
            target.write_text(text)
    for (sanitizer, cp_async), words in bug.caught.items():
        result = run(build(bug.driver, SANITIZERS[sanitizer], kernels, variant), cp_async, 0)
        said = result.stdout + result.stderr
        assert result.returncode != 0, f"{sanitizer}, {cp_async}: not caught"
        assert words in said, f"{sanitizer}, {cp_async}: {words!r} not in\n{said[-2000:]}"
