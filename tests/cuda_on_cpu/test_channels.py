"""bias_*, affine_*, embedding_* and gate_backward of csrc/cuda, executed on the CPU."""

from __future__ import annotations

import types

import pytest
import torch
from ops import truth
from torch import Tensor

from .closeness import TOLERANCE, assert_close, gram_scale

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# g [C, B, O, *]: odd and even channels, no position, one, many
SHAPES = [(3, 2, 8, 5, 5), (3, 2, 7, 9), (2, 3, 72), (9, 1, 16, 300), (2, 1, 300, 3, 2, 2)]


def channels_last(t: Tensor, dim: int) -> Tensor:
    return t.movedim(dim, -1).contiguous().movedim(-1, dim)


def cotangents(shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    g, xhat = torch.randn(shape).to(dtype), torch.randn(shape[1:]).to(dtype)
    if last:
        g, xhat = channels_last(g, 2), channels_last(xhat, 1)
    return g, xhat, torch.randn(shape[2]).to(dtype)


@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "contiguous"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", ["bias", "affine"])
def test_channels(
    emulated: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    last: bool,
) -> None:
    monkeypatch.setenv("GRADFAST_EMULATOR_MULTIPROCESSORS", "2")  # so that positions are split over blocks
    g, xhat, ref = cotangents(shape, dtype, last)
    operands = (g,) if family == "bias" else (xhat, g)
    grads = truth.FAMILIES[family](*operands)
    squares, products = truth.sqnorm(grads), truth.gram(grads)
    assert_close(getattr(emulated, f"{family}_sqnorm")(*operands), squares, TOLERANCE[dtype])
    scale = squares.sqrt() * ref.double().norm()
    assert_close(
        getattr(emulated, f"{family}_dot")(*operands, ref), truth.dot(grads, ref), TOLERANCE[dtype], scale
    )
    actual = getattr(emulated, f"{family}_gram")(*operands)
    assert_close(actual, products, TOLERANCE[dtype], gram_scale(products))


def test_channels_with_any_strides(emulated: types.ModuleType) -> None:
    g, xhat, _ = cotangents((3, 2, 8, 5, 5), torch.float32, last=False)
    permuted = g.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)
    assert_close(emulated.bias_sqnorm(permuted), truth.sqnorm(truth.bias(g)), TOLERANCE[torch.float32])
    assert_close(
        emulated.affine_sqnorm(channels_last(xhat, 1), g),
        truth.sqnorm(truth.affine(xhat, g)),
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)], ids=str)
def test_nothing_is_launched_for_no_channels(emulated: types.ModuleType, shape: tuple[int, ...]) -> None:
    g, xhat, ref = cotangents(shape, torch.float32, last=False)
    rows, samples = shape[:2]
    assert torch.equal(emulated.bias_sqnorm(g), torch.zeros(samples, rows))
    assert torch.equal(emulated.bias_dot(g, ref), torch.zeros(samples, rows))
    assert torch.equal(emulated.affine_gram(xhat, g), torch.zeros(samples, rows, rows))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("padding", [-1, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(3, 2, 7, 5), (2, 3, 70, 130), (1, 1, 1, 8)], ids=str)
def test_embedding(
    emulated: types.ModuleType, sizes: tuple[int, ...], dtype: torch.dtype, padding: int, deterministic: bool
) -> None:
    torch.manual_seed(0)
    rows, samples, t, d = sizes
    indices = torch.randint(0, 6, (samples, t))
    g = torch.randn(rows, samples, t, d).to(dtype)
    grads = truth.embedding(indices, g, padding)
    ref = torch.randn(grads.shape[2:]).to(dtype)
    squares, products = truth.sqnorm(grads), truth.gram(grads)
    torch.use_deterministic_algorithms(deterministic)
    try:
        results = (
            emulated.embedding_sqnorm(indices, g, padding),
            emulated.embedding_dot(indices, g, ref, padding),
            emulated.embedding_gram(indices, g, padding),
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(results[0], squares, TOLERANCE[dtype])
    assert_close(results[1], truth.dot(grads, ref), TOLERANCE[dtype], squares.sqrt() * ref.double().norm())
    assert_close(results[2], products, TOLERANCE[dtype], gram_scale(products))


def test_a_token_outside_of_the_table_gives_nan(emulated: types.ModuleType) -> None:
    indices, g = torch.tensor([[0, 9]]), torch.randn(1, 1, 2, 4)
    assert emulated.embedding_dot(indices, g, torch.randn(3, 4), -1).isnan().all()


def gate_truth(
    g: Tensor, gate: Tensor | None, multiply: bool, xs: list[Tensor], means: list[Tensor], rstds: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The gated cotangent and the sums, in float64."""
    v = g.double()
    if gate is not None:
        v = v * gate.double() if multiply else v * (gate > 0)
    sums = [v.sum(2)]
    for x, mean, rstd in zip(xs, means, rstds, strict=True):
        sums.append((v * (x.double() - mean.double()) * rstd.double()).sum(2))
    return v, torch.stack(sums)


@pytest.mark.parametrize("affine", [0, 1, 2])
@pytest.mark.parametrize("gate", ["none", "relu", "multiply"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 20, 24), (9, 1, 300, 7)], ids=str)
def test_gate_backward(
    emulated: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    gate: str,
    affine: int,
) -> None:
    monkeypatch.setenv("GRADFAST_EMULATOR_MULTIPROCESSORS", "2")
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    g, mask = torch.randn(shape).to(dtype), torch.randn(shape[1:]).to(dtype)
    xs = [torch.randn(shape[1:]).to(dtype) for _ in range(affine)]
    means, rstds, factors = ([torch.randn(shape[3], dtype=wide) for _ in range(affine)] for _ in range(3))
    used = None if gate == "none" else mask
    v, sums = gate_truth(g, used, gate == "multiply", xs, means, rstds)
    plain = gate != "none"
    out, actual, scaled = emulated.gate_backward(
        g, used, gate == "multiply", xs, means, rstds, factors, plain
    )
    step = {torch.float64: 1e-15, torch.float32: 2e-7, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
    if plain:
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), v, rtol=step, atol=step * 1e-3)
    else:
        assert out.numel() == 0
    assert len(scaled) == affine
    for s, factor in zip(scaled, factors, strict=True):
        torch.testing.assert_close(s.double(), v * factor.double(), rtol=2 * step, atol=step * 1e-3)
    assert_close(actual, sums, TOLERANCE[dtype], sums.abs() + v.abs().sum(2)[None])
