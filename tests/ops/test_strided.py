"""conv_input_grad against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from tracing import RUN_AND_TRACED

from gradfast import ops

# C, B, O, I, H, W, kernel, stride, padding.
CASES = [
    (2, 3, 64, 32, 16, 16, (3, 3), (2, 2), (1, 1)),
    (3, 5, 32, 16, 8, 8, (1, 1), (2, 2), (0, 0)),  # three phases of four without a tap
    (2, 2, 20, 37, 9, 7, (3, 3), (2, 2), (1, 1)),  # odd sizes, no whole vector of channels
    (2, 2, 17, 70, 13, 10, (7, 7), (2, 2), (3, 3)),
    (2, 2, 8, 5, 12, 12, (4, 4), (2, 2), (1, 1)),
    (1, 2, 6, 4, 11, 14, (3, 5), (3, 2), (0, 2)),  # strides of their own, pixels that no position reaches
    (1, 2, 6, 4, 10, 10, (2, 2), (3, 3), (0, 0)),
    (2, 1, 3, 2, 5, 6, (3, 3), (1, 1), (1, 1)),
    (1, 1, 1, 1, 1, 1, (1, 1), (2, 2), (0, 0)),
    (2, 2, 4, 3, 4, 4, (3, 3), (2, 2), (3, 3)),  # more padding than kernel
    (2, 40, 64, 130, 4, 4, (3, 3), (2, 2), (1, 1)),  # groups of images, several panels
]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}


def operands(case: tuple, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    c, b, o, i, h, w, kernel, stride, padding = case
    torch.manual_seed(h + 10 * w)
    out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip((h, w), kernel, stride, padding, strict=True)]
    g = torch.randn(c, b, *out, o).permute(0, 1, 4, 2, 3)
    return g.to(dtype), (torch.randn(o, i, *kernel) / (o * kernel[0]) ** 0.5).to(dtype)


def by_autograd(g: Tensor, weight: Tensor, case: tuple) -> Tensor:
    """One sample and row at a time."""
    *_, i, h, w, _, stride, padding = case
    x = torch.zeros(1, i, h, w, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight.double(), stride=stride, padding=padding)
    rows = [
        [
            torch.autograd.grad(y, x, g[c, b : b + 1].double(), retain_graph=True)[0][0]
            for b in range(g.shape[1])
        ]
        for c in range(g.shape[0])
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_autograd(case: tuple, dtype: torch.dtype) -> None:
    g, weight = operands(case, dtype)
    dx = ops.conv_input_grad(g, weight, case[-2], case[-1], case[4:6])
    truth = by_autograd(g, weight, case)
    assert dx.shape == truth.shape
    assert dx.dtype == dtype
    assert (dx.double() - truth).norm() <= TOLERANCE[dtype] * truth.norm()
    assert dx[0].is_contiguous(memory_format=torch.channels_last)


def test_any_layout_is_read() -> None:
    case = CASES[0]
    g, weight = operands(case)
    want = ops.conv_input_grad(g, weight, *case[-2:], case[4:6])
    strided = torch.stack([g, g], -1)[..., 0]
    for other in (g.contiguous(), strided, g.transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(ops.conv_input_grad(other, weight, *case[-2:], case[4:6]), want)
    last = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.conv_input_grad(g, last, *case[-2:], case[4:6]), want)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[10]], ids=str)
def test_same_bits_for_any_number_of_threads(case: tuple) -> None:
    g, weight = operands(case)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ops.conv_input_grad(g, weight, *case[-2:], case[4:6]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(dx, results[0]) for dx in results[1:])


def test_empty_operands() -> None:
    assert ops.conv_input_grad(torch.empty(0, 2, 8, 4, 4), torch.randn(8, 3, 3, 3), (2, 2), (1, 1), (8, 8)).shape == (
        0, 2, 3, 8, 8,
    )  # fmt: skip
    none = ops.conv_input_grad(torch.empty(2, 1, 0, 4, 4), torch.empty(0, 3, 3, 3), (2, 2), (1, 1), (8, 8))
    assert torch.equal(none, torch.zeros(2, 1, 3, 8, 8))


@RUN_AND_TRACED
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"g": torch.randn(2, 1, 8, 4, 4).double()}, TypeError, "float64|Double"),
        ({"g": torch.randn(2, 8, 4, 4)}, ValueError, "4"),
        ({"weight": torch.randn(8, 3, 3, 3).bfloat16()}, TypeError, "BFloat16|bfloat16"),
        ({"weight": torch.randn(7, 3, 3, 3)}, ValueError, "wanted \\[8, I, h, w\\]"),
        ({"size": (9, 8)}, ValueError, "is not what a kernel of"),
        ({"size": (8,)}, ValueError, "two numbers"),
        ({"stride": (0, 2)}, ValueError, "wanted positive ones"),
    ],
)
def test_bad_operands(change: dict, error: type[Exception], message: str, mode: Any) -> None:
    given = {
        "g": torch.randn(2, 1, 8, 4, 4),
        "weight": torch.randn(8, 3, 3, 3),
        "stride": (2, 2),
        "padding": (1, 1),
        "size": (8, 8),
    } | change
    if "size" in change and change["size"] == (9, 8):
        given["size"] = (11, 8)
    with mode(), pytest.raises(error, match=message):
        ops.conv_input_grad(*given.values())


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=str)
def test_opcheck(case: tuple) -> None:
    g, weight = operands(case)
    torch.library.opcheck(torch.ops.gradfast.conv_input_grad, (g, weight, *case[-2:], case[4:6]))
