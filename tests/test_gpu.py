"""The engine on a GPU: every model of the zoo, with the numbers that it gives on the CPU.

GRADFAST_TEST_DEVICE=cpu runs the same tests on the CPU, to test them.
"""

from __future__ import annotations

import os
from copy import deepcopy

import pytest
import torch
from closeness import assert_close
from torch import Tensor
from zoo import LAYERS, USES, Case

import gradfast
from gradfast.inputs import Inputs, map_tensors

DEVICE = os.environ.get("GRADFAST_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning"),
    *([pytest.mark.cuda] if DEVICE == "cuda" else []),
]
CASES = [pytest.param(case, id=name) for name, case in {**LAYERS, **USES}.items()]


def there(x: Inputs) -> Inputs:
    return map_tensors(lambda t: t.to(DEVICE), x)


@pytest.mark.parametrize("case", CASES)
def test_norms_are_those_of_the_cpu(case: Case) -> None:
    model, x = case.build(torch.float64)
    wanted = gradfast.grad_norms(model, x)
    got = gradfast.grad_norms(deepcopy(model).to(DEVICE), there(x))
    assert got.values.device.type == DEVICE
    assert got.layers == wanted.layers
    assert_close(got.values.cpu(), wanted.values, wanted.layers, 1e-9)


@pytest.mark.parametrize("name", ["norms-twice", "embedding-twice", "layer-scale-image"])
def test_dots_and_grams_are_those_of_the_cpu(name: str) -> None:
    model, x = USES[name].build(torch.float64)
    directions: dict[str, Tensor] = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    moved, moved_x = deepcopy(model).to(DEVICE), there(x)
    dots = gradfast.grad_dots(moved, moved_x, {n: d.to(DEVICE) for n, d in directions.items()})
    torch.testing.assert_close(
        dots.values.cpu(), gradfast.grad_dots(model, x, directions).values, rtol=1e-8, atol=1e-8
    )
    gram = gradfast.grad_gram(moved, moved_x).values.cpu()
    torch.testing.assert_close(gram, gradfast.grad_gram(model, x).values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    model, x = USES["layer-scale-image"].build(torch.float32)
    wanted = gradfast.grad_norms(deepcopy(model).double(), map_tensors(lambda t: t.double(), x))
    autocast = None if dtype is torch.float32 else dtype
    got = gradfast.grad_norms(deepcopy(model).to(DEVICE), there(x), dtype=autocast)
    tolerance = 1e-2 if autocast is None else 0.2  # cuDNN's convolutions are in tf32 unless told otherwise
    total, wanted_total = got.values.cpu().double().sum(-1), wanted.values.sum(-1)
    torch.testing.assert_close(total, wanted_total, rtol=tolerance, atol=0.0)
