"""A call as it is, and as torch traces it: with fake kernels in place of the kernels."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["RUN_AND_TRACED"]

RUN_AND_TRACED = pytest.mark.parametrize(
    "mode", [nullcontext, partial(FakeTensorMode, allow_non_fake_inputs=True)], ids=["run", "traced"]
)
