"""The emulated operators, built once a session."""

from __future__ import annotations

import types

import pytest
import torch

from .build import CannotBuildError, build_ops


@pytest.fixture(scope="session")
def emulated() -> types.ModuleType:
    """torch.ops.gradfast_emulated: the CUDA sources of csrc/cuda, run on CPU tensors."""
    import gradfast  # noqa: F401  (declares the operators)

    try:
        torch.ops.load_library(str(build_ops()))
    except CannotBuildError as error:
        pytest.skip(str(error))
    return torch.ops.gradfast_emulated


@pytest.fixture(
    params=[("late", 0), ("eager", 0), ("late", 7), ("eager", 23)],
    ids=lambda p: f"{p[0]}-seed{p[1]}",
)
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """When cp.async moves its bytes, and the order in which threads run."""
    monkeypatch.setenv("GRADFAST_EMULATOR_CP_ASYNC", request.param[0])
    monkeypatch.setenv("GRADFAST_EMULATOR_SEED", str(request.param[1]))
