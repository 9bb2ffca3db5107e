"""Options of the benchmarks, and the records that they leave for ``python -m bench``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradfast")
    group.addoption("--seconds", type=float, default=20.0, help="for the rounds of each test")
    group.addoption(
        "--longest", type=float, default=3.0, help="seconds that one call of a contender may take"
    )
    group.addoption("--limit", type=float, default=600.0, help="seconds after which a test should have ended")
    group.addoption("--threads", type=int, default=2, help="torch's threads")
    group.addoption("--records", type=Path, default=None, help="folder for a JSON record of each test")


@pytest.fixture(scope="session", autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(request.config.getoption("--threads"))


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--seconds"))


@pytest.fixture
def longest(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--longest"))


@pytest.fixture
def limit(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--limit"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Called with what a test found: kept in pytest-benchmark's extra_info, if the test uses it, and as a file of its own.

    The file is written at once, so that a later crash in the same process does not take it along.
    """

    def keep(**found: object) -> None:
        if "benchmark" in request.fixturenames:
            request.getfixturevalue("benchmark").extra_info.update(found)
        folder = request.config.getoption("--records")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "-", request.node.name).strip("-")
            (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")

    return keep
