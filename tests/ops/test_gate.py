"""The fused pointwise pass against the separate steps in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from tracing import RUN_AND_TRACED

from gradfast import ops

SHAPES = [(4, 3, 37, 64), (3, 5, 17, 100), (2, 2, 1, 3), (1, 1, 9, 130), (3, 2, 3, 2100)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}


def operands(
    shape: tuple[int, ...], dtype: torch.dtype, norms: int = 2
) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
    generator = torch.Generator().manual_seed(math.prod(shape))

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    channels = shape[3]
    g, gate = randn(*shape).to(dtype), randn(*shape[1:]).to(dtype)
    vectors = [[randn(channels) for _ in range(norms)] for _ in range(3)]
    return g, gate, [[randn(*shape[1:]).to(dtype) for _ in range(norms)], *vectors]


def assert_near(result: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    assert result.shape == truth.shape
    scale = truth.abs().max() + 1e-30
    assert ((result.double() - truth).abs().max() / scale).item() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["factor", "open", "none"])
def test_all_results(shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> None:
    g, gate, (xs, means, rstds, factors) = operands(shape, dtype)
    v = g.double()
    if kind != "none":
        v = v * (gate.double() if kind == "factor" else gate.double() > 0)
    plain, sums, scaled = ops.gate_backward(
        g, None if kind == "none" else gate, kind == "factor", xs, means, rstds, factors, True
    )
    assert plain.dtype == scaled[0].dtype == dtype
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_near(plain, v, dtype)
    assert_near(sums[0], v.sum(2), dtype)
    for k in range(2):
        assert_near(sums[1 + k], (v * (xs[k].double() - means[k]) * rstds[k]).sum(2), dtype)
        assert_near(scaled[k], v * factors[k], dtype)


@pytest.mark.parametrize("norms", [0, 1])
def test_what_is_not_wanted_is_empty(norms: int) -> None:
    g, gate, (xs, means, rstds, _) = operands((2, 3, 5, 8), torch.float32, norms)
    plain, sums, scaled = ops.gate_backward(g, gate, True, xs, means, rstds, [], False)
    assert plain.numel() == 0
    assert scaled == []
    assert_near(sums[0], (g.double() * gate.double()).sum(2), torch.float32)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    g, gate, (xs, means, rstds, factors) = operands(shape, torch.float32)
    plain, sums, scaled = ops.gate_backward(g, gate, False, xs, means, rstds, factors)
    assert plain.shape == scaled[0].shape == shape
    assert sums.shape == (3, shape[0], shape[1], shape[3])
    assert not sums.any()


def test_a_closed_gate_stops_nan_and_a_gate_of_nan_is_open() -> None:
    g = torch.full((1, 1, 1, 3), torch.nan)
    gate = torch.tensor([[[0.0, 1.0, torch.nan]]])
    plain, _, _ = ops.gate_backward(g, gate, False, [], [], [])
    expected = torch.ops.aten.threshold_backward(g, gate[None], 0)
    assert plain.isnan().tolist() == expected.isnan().tolist() == [[[[False, True, True]]]]


def test_the_same_bits_for_any_number_of_threads() -> None:
    g, gate, (xs, means, rstds, factors) = operands((7, 2, 50, 33), torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.gate_backward(g, gate, True, xs, means, rstds, factors)[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("norms", [0, 1, 2])
@pytest.mark.parametrize("kind", ["factor", "open", "none"])
def test_a_second_cotangent_is_added(kind: str, norms: int, dtype: torch.dtype) -> None:
    shape = (3, 2, 29, 37)
    g, gate, (xs, means, rstds, factors) = operands(shape, dtype, norms)
    other = torch.randn(2, 3, 29, 37).transpose(0, 1).to(dtype)  # of any strides
    v = g.double() + other.double()
    if kind != "none":
        v = v * (gate.double() if kind == "factor" else gate.double() > 0)
    plain, sums, scaled = ops.gate_backward(
        g, None if kind == "none" else gate, kind == "factor", xs, means, rstds, factors, True, other
    )
    assert_near(plain, v, dtype)
    assert_near(sums[0], v.sum(2), dtype)
    for k in range(norms):
        assert_near(scaled[k], v * factors[k], dtype)
    with pytest.raises(ValueError, match=r"other has shape \[3, 2, 29, 36\]; wanted \[3, 2, 29, 37\]"):
        ops.gate_backward(g, gate, True, xs, means, rstds, factors, True, other[..., 1:])


def test_opcheck() -> None:
    g, gate, (xs, means, rstds, factors) = operands((2, 3, 5, 8), torch.float32)
    torch.library.opcheck(
        torch.ops.gradfast.gate_backward.default, (g, gate, True, xs, means, rstds, factors, True, g.clone())
    )
    for plain in (True, False):
        torch.library.opcheck(
            torch.ops.gradfast.gate_backward.default, (g, gate, True, xs, means, rstds, factors, plain)
        )
    torch.library.opcheck(torch.ops.gradfast.gate_backward.default, (g, None, False, [], [], [], [], False))


@RUN_AND_TRACED
def test_errors_name_the_argument(mode: Any) -> None:
    g, gate, (xs, means, rstds, factors) = operands((2, 3, 5, 8), torch.float32)
    with mode(), pytest.raises(ValueError, match=r"gate has shape \[3, 4, 8\]; wanted \[3, 5, 8\]"):
        ops.gate_backward(g, gate[:, :4], True, xs, means, rstds, factors)
    with mode(), pytest.raises(TypeError, match="gate has dtype Double; wanted Float, as g"):
        ops.gate_backward(g, gate.double(), True, xs, means, rstds, factors)
    with mode(), pytest.raises(ValueError, match="got 2 xs, 1 means"):
        ops.gate_backward(g, gate, True, xs, means[:1], rstds, factors)
    with mode(), pytest.raises(ValueError, match=r"means has shape \[7\]; wanted \[8\]"):
        ops.gate_backward(g, gate, True, xs, [m[:7] for m in means], rstds, factors)
