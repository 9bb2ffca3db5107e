"""Every layer with every option and every use of a parameter, against plain autograd in float64."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest
import torch
from closeness import assert_close
from zoo import LAYERS, USES, Case

from gradfast import reference
from gradfast.errors import FallbackWarning

CASES = [pytest.param(case, id=name) for name, case in {**LAYERS, **USES}.items()]


@pytest.mark.parametrize("case", CASES)
def test_norms_in_float64(case: Case, api: ModuleType) -> None:
    model, x = case.build(torch.float64)
    truth = reference.grad_norms(model, x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = api.grad_norms(model, x)
    warned = " ".join(str(w.message) for w in caught if issubclass(w.category, FallbackWarning))
    assert all(name in warned or "more" in warned for name in result.fallback)
    assert bool(warned) == bool(result.fallback)
    assert case.fallback or not result.fallback, "these have a rule of their own"
    assert result.unused == truth.unused
    assert result.layers == tuple(name for name, _ in model.named_parameters())
    assert result.values.dtype == torch.float64
    torch.testing.assert_close(result.logits, truth.logits)
    assert result.classes.tolist() == truth.classes.tolist()
    assert_close(result.values, truth.values, result.layers, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_norms_in_float32(case: Case, api: ModuleType) -> None:
    truth = reference.grad_norms(*case.build(torch.float64), contrast="all-ones")
    result = api.grad_norms(*case.build(), contrast="all-ones")
    assert result.values.dtype == torch.float32
    assert result.values.shape[1] == 1
    assert_close(result.values, truth.values, result.layers, 1e-4)
