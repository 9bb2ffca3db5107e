"""Options, skips with their reasons, and the implementation under test."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PEERS = ("backpack",)

# The same examples in every run: a failure is the change's, not the day's.
settings.register_profile("gradfast", derandomize=True, deadline=None)
settings.load_profile("gradfast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        default="gradfast",
        help="module whose grad_norms, grad_gram and grad_dots are tested, e.g. gradfast.reference",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    reasons = {
        "cuda": None if torch.cuda.is_available() else "no CUDA device here",
        "shared": None if SHARED.is_dir() else "the data sets and weights of ../shared are not here",
        "peers": f"not installed: {', '.join(missing)}" if missing else None,
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and weights."""
    return SHARED


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> ModuleType:
    """The implementation under test, by default the fast engine."""
    return importlib.import_module(request.config.getoption("--implementation"))
