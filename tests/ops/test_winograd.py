"""conv3x3_backward against autograd in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from tracing import RUN_AND_TRACED

import gradfast
from gradfast import ops

# C, B, O, I, H, W: one tile, several groups of images, several blocks of an image, panels of input channels; odd
# sizes, and channels that are no multiple of a vector.
SHAPES = [
    (2, 3, 64, 64, 32, 32),
    (3, 5, 128, 64, 16, 16),
    (2, 40, 32, 48, 8, 8),
    (3, 2, 20, 37, 7, 9),
    (1, 1, 1, 1, 1, 1),
    (2, 2, 16, 70, 3, 2),
    (1, 2, 5, 16, 1, 13),
    (2, 2, 33, 64, 40, 41),
    (1, 2, 8, 5, 70, 3),
    (2, 3, 512, 300, 4, 4),
    (2, 1, 272, 512, 6, 5),
]
# Of dx, relative to its norm, and of the squared norms. bfloat16 rounds dx itself, and the products for the norms.
TOLERANCE = {torch.float32: (5e-6, 2e-6), torch.bfloat16: (4e-3, 1e-2)}


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """g and x channels-last, and the weight."""
    c, b, o, i, h, w = shape
    torch.manual_seed(sum(shape))
    g = torch.randn(c, b, h, w, o).permute(0, 1, 4, 2, 3)
    x = torch.randn(b, h, w, i).relu().permute(0, 3, 1, 2)
    return g.to(dtype), (torch.randn(o, i, 3, 3) / (3 * i**0.5)).to(dtype), x.to(dtype)


def by_autograd(g: Tensor, weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input gradient and squared norms of the weight gradient, one sample and row at a time."""
    weight = weight.double().requires_grad_()
    dx = torch.empty(*g.shape[:2], *x.shape[1:], dtype=torch.float64)
    sq = torch.empty(x.shape[0], g.shape[0], dtype=torch.float64)
    for b in range(x.shape[0]):
        image = x[b : b + 1].double().requires_grad_()
        y = F.conv2d(image, weight, padding=1)
        for c in range(g.shape[0]):
            grads = torch.autograd.grad(y, (image, weight), g[c, b : b + 1].double(), retain_graph=True)
            dx[c, b], sq[b, c] = grads[0][0], grads[1].square().sum()
    return dx, sq


def assert_close(result: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    dx, sq = result
    assert dx.shape == truth[0].shape
    assert dx.dtype == dtype
    assert (dx.double() - truth[0]).norm() <= TOLERANCE[dtype][0] * truth[0].norm()
    assert sq.dtype == torch.float32
    torch.testing.assert_close(sq.double(), truth[1], rtol=TOLERANCE[dtype][1], atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_autograd(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g, weight, x = operands(shape, dtype)
    assert_close(ops.conv3x3_backward(g, weight, x), by_autograd(g, weight, x), dtype)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3], SHAPES[9]], ids=str)
def test_mask_and_scale_act_on_the_cotangent(shape: tuple[int, ...]) -> None:
    g, weight, x = operands(shape)
    mask, scale = torch.randn(g.shape[1:]).relu(), torch.randn(g.shape[2])
    gated = g * (mask > 0) * scale[:, None, None]
    truth = by_autograd(gated, weight, x)
    assert_close(ops.conv3x3_backward(g, weight, x, mask=mask, scale=scale), truth, torch.float32)


def test_a_mask_hides_what_is_not_finite() -> None:
    g, weight, x = operands((1, 1, 16, 16, 4, 4))
    mask = torch.ones(g.shape[1:])
    g[0, 0, 3, 1, 2], mask[0, 3, 1, 2] = torch.nan, 0
    dx, sq = ops.conv3x3_backward(g, weight, x, mask=mask)
    assert dx.isfinite().all()
    assert sq.isfinite().all()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[7], SHAPES[9]], ids=str)
def test_what_is_not_wanted_is_empty_and_changes_nothing(shape: tuple[int, ...]) -> None:
    g, weight, x = operands(shape)
    dx, sq = ops.conv3x3_backward(g, weight, x)
    only_dx = ops.conv3x3_backward(g, weight, need_sqnorm=False)
    only_sq = ops.conv3x3_backward(g, weight, x, need_input_grad=False)
    assert torch.equal(only_dx[0], dx)
    assert only_dx[1].shape == (x.shape[0], 0)
    torch.testing.assert_close(only_sq[1], sq, rtol=1e-6, atol=0)
    assert only_sq[0].shape == (0, *dx.shape[1:])


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], SHAPES[7], SHAPES[9]], ids=str)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, ...]) -> None:
    g, weight, x = operands(shape)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ops.conv3x3_backward(g, weight, x))
    finally:
        torch.set_num_threads(threads)
    for dx, sq in results[1:]:
        assert torch.equal(dx, results[0][0])
        assert torch.equal(sq, results[0][1])


def test_rows_and_samples_do_not_mix() -> None:
    g, weight, x = operands((3, 4, 24, 40, 8, 8))
    dx, sq = ops.conv3x3_backward(g, weight, x)
    for c in range(3):
        for b in range(4):
            alone = ops.conv3x3_backward(g[c : c + 1, b : b + 1], weight, x[b : b + 1])
            assert torch.equal(alone[0][0, 0], dx[c, b])
            assert torch.equal(alone[1][0, 0], sq[b, c])


def test_groups_of_the_panel_form_do_not_mix() -> None:
    g, weight, x = operands((10, 20, 512, 256, 4, 4))  # 200 tiles, in two groups
    dx, sq = ops.conv3x3_backward(g, weight, x)
    alone = ops.conv3x3_backward(g[9:], weight, x)
    assert torch.equal(alone[0][0], dx[9])
    assert torch.equal(alone[1][:, 0], sq[:, 9])


def test_any_memory_format() -> None:
    g, weight, x = operands((2, 3, 24, 20, 9, 8))
    mask = torch.randn(g.shape[1:])
    truth = ops.conv3x3_backward(g, weight, x, mask=mask)
    wide = torch.randn(4, 3, 9, 8, 48).permute(0, 1, 4, 2, 3)
    wide[::2, :, :24] = g
    for cotangent in (g.contiguous(), g.transpose(3, 4).contiguous().transpose(3, 4), wide[::2, :, :24]):
        result = ops.conv3x3_backward(
            cotangent, weight.to(memory_format=torch.channels_last), x.contiguous(), mask=mask.contiguous()
        )
        assert torch.equal(result[0], truth[0])
        assert torch.equal(result[1], truth[1])
    one_row = g[:1].expand(3, *g.shape[1:])
    dx, sq = ops.conv3x3_backward(one_row, weight, x, mask=mask)
    assert torch.equal(dx[2], truth[0][0])
    assert torch.equal(sq[:, 1], truth[1][:, 0])


@pytest.mark.parametrize("shape", [(0, 2, 16, 16, 4, 4), (2, 0, 16, 16, 4, 4), (2, 2, 16, 16, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    g, weight, x = operands(shape)
    dx, sq = ops.conv3x3_backward(g, weight, x)
    assert dx.shape == (*g.shape[:2], *x.shape[1:])
    assert torch.equal(sq, torch.zeros(g.shape[1], g.shape[0]))


def test_no_output_channels_give_a_zero_gradient() -> None:
    dx, sq = ops.conv3x3_backward(torch.ones(2, 3, 0, 4, 4), torch.ones(0, 16, 3, 3), torch.ones(3, 16, 4, 4))
    assert torch.equal(dx, torch.zeros(2, 3, 16, 4, 4))
    assert torch.equal(sq, torch.zeros(3, 2))


@RUN_AND_TRACED
def test_wrong_operands_are_refused(mode: Any) -> None:
    g, weight, x = operands((2, 3, 16, 16, 4, 4))
    with mode(), pytest.raises(ValueError, match=r"x is None; wanted a tensor"):
        ops.conv3x3_backward(g, weight)
    with (
        mode(),
        pytest.raises(ValueError, match=r"weight has shape \[16, 16, 5, 5\]; wanted \[16, 16, 3, 3\]"),
    ):
        ops.conv3x3_backward(g, torch.ones(16, 16, 5, 5), x)
    with mode(), pytest.raises(ValueError, match="x has shape"):
        ops.conv3x3_backward(g, weight, x[:2])
    with mode(), pytest.raises(ValueError, match="mask has shape"):
        ops.conv3x3_backward(g, weight, x, mask=torch.ones(3, 16, 4, 5))
    with mode(), pytest.raises(ValueError, match="scale has shape"):
        ops.conv3x3_backward(g, weight, x, scale=torch.ones(15))
    with mode(), pytest.raises(TypeError, match="g has dtype Double; wanted float32 or bfloat16"):
        ops.conv3x3_backward(g.double(), weight.double(), x.double())
    with mode(), pytest.raises(TypeError, match="weight has dtype BFloat16"):
        ops.conv3x3_backward(g, weight.bfloat16(), x)


def test_query() -> None:
    def query(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, sqnorm: bool = False) -> bool:
        c, b, o, i, h, w = shape
        g, weight = torch.empty(c, b, o, h, w, dtype=dtype), torch.empty(o, i, 3, 3, dtype=dtype)
        return ops.has_conv3x3_backward(g, weight, sqnorm=sqnorm)

    fast = gradfast._C.cpu_isa() != "baseline"
    assert query((10, 4, 64, 64, 32, 32)) == query((10, 4, 512, 512, 4, 4), torch.bfloat16) == fast
    assert not query((10, 4, 64, 3, 32, 32))  # a stem
    assert not query((10, 4, 64, 64, 2, 2))
    assert not query((1, 1, 512, 512, 4, 4))
    assert not query((10, 4, 64, 64, 32, 32), torch.float64)
    assert query((10, 4, 64, 64, 32, 32), sqnorm=True) == fast
    assert not query((10, 4, 256, 256, 8, 8), sqnorm=True)


@pytest.mark.parametrize("with_gate", [False, True])
def test_opcheck(with_gate: bool) -> None:
    g, weight, x = operands((2, 3, 16, 24, 5, 6))
    gate = (torch.randn(g.shape[1:]), torch.randn(g.shape[2])) if with_gate else (None, None)
    torch.library.opcheck(torch.ops.gradfast.conv3x3_backward.default, (g, weight, x, *gate))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    """The set is chosen once per process, so another one needs another process."""
    if isa not in gradfast._C.build_info()["isas"]:
        pytest.skip(f"{isa} was not built")
    tests = ["test_equals_autograd", "test_mask_and_scale_act_on_the_cotangent"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *(f"{__file__}::{name}" for name in tests)],
        env={**os.environ, "GRADFAST_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
