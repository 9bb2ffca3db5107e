"""The tests of the operators, tests/ops, with the CUDA sources in place of the CPU's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .build import CannotBuildError, build_ops, leave_out

TESTS = Path(__file__).resolve().parents[1]
# What the CUDA operators do not do, or the emulated ones need not.
OTHERWISE = {
    "ops/test_errors.py::test_message[indices has 9; wanted 0 to 8, the rows of ref-run]": "NaN, where a check would synchronize",
    "ops/test_registration.py": "of gradfast's own operators: schemas, fakes, export",
    "ops/test_instruction_sets.py": "of the CPU's kernels",
    "ops/test_winograd.py": "of the CPU's kernels",
}


@pytest.mark.slow
def test_the_tests_of_the_operators_pass_on_the_cuda_sources() -> None:
    try:
        build_ops()
    except CannotBuildError as error:
        leave_out(str(error))
    deselected = [argument for name in OTHERWISE for argument in ("--deselect", f"{TESTS.name}/{name}")]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "not slow",
            "-p",
            "cuda_on_cpu.served",
            "-k",
            "not traced and not meta_tensors",  # fake kernels, which the emulated operators have not
            *deselected,
            "tests/ops",
        ],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) > 200, run.stdout[-500:]
