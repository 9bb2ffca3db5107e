"""The emulated operators, built once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from .build import CannotBuildError, build_ops, leave_out


class OnGpu:
    """torch.ops.gradfast on the GPU for arguments and results on the CPU."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            moved = tree_map_only(torch.Tensor, lambda t: t.cuda(), arguments)
            return tree_map_only(torch.Tensor, lambda t: t.cpu(), getattr(torch.ops.gradfast, name)(*moved))

        return call


@pytest.fixture(scope="session")
def emulated() -> Any:
    """torch.ops.gradfast_emulated: the CUDA sources of csrc/cuda, run on CPU tensors.

    With GRADFAST_TEST_DEVICE=cuda the same tests go to the GPU.
    """
    import gradfast  # noqa: F401  (declares the operators)

    if os.environ.get("GRADFAST_TEST_DEVICE") == "cuda":
        return OnGpu()
    try:
        torch.ops.load_library(str(build_ops()))
    except CannotBuildError as error:
        leave_out(str(error))
    return torch.ops.gradfast_emulated


@pytest.fixture(
    params=[("late", 0), ("eager", 0), ("late", 7), ("eager", 23)],
    ids=lambda p: f"{p[0]}-seed{p[1]}",
)
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """When cp.async moves its bytes, and the order in which threads run."""
    monkeypatch.setenv("GRADFAST_EMULATOR_CP_ASYNC", request.param[0])
    monkeypatch.setenv("GRADFAST_EMULATOR_SEED", str(request.param[1]))
