"""A pytest plugin that sends every call of `gradfast.ops` to the emulated CUDA operators: ``-p cuda_on_cpu.served``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from .build import build_ops


@pytest.fixture(autouse=True, scope="session")
def served_by_cuda() -> Iterator[None]:
    from gradfast import ops

    torch.ops.load_library(str(build_ops()))
    torch.backends.cudnn.allow_tf32 = False
    before, ops._ops = ops._ops, torch.ops.gradfast_emulated
    yield
    ops._ops = before
