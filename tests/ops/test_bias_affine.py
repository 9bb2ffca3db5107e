"""Biases and norm layers' scales: every shape, layout and dtype against autograd in float64."""

from __future__ import annotations

import pytest
import torch
import truth
from compare import DTYPES, assert_close, assert_dot_close, assert_gram_close
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, lay_out

from gradfast import ops


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """(xhat, g); the bias takes g alone."""
    rows, samples, channels = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 70))
    positions = draw(st.lists(st.integers(0, 9), max_size=3))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    xhat = torch.randn(samples, channels, *positions, generator=generator).to(dtype)
    g = torch.randn(rows, samples, channels, *positions, generator=generator).to(dtype)
    return lay_out(xhat, draw(st.sampled_from(LAYOUTS)), 1), lay_out(g, draw(st.sampled_from(LAYOUTS)), 2)


@settings(max_examples=120)
@given(problems())
def test_bias(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, g = problem
    ref = torch.randn(g.shape[2]).to(g.dtype)
    grads = truth.bias(g)
    assert_close(ops.bias_sqnorm(g), truth.sqnorm(grads), g.dtype)
    assert_dot_close(ops.bias_dot(g, ref), grads, ref, g.dtype)
    assert_gram_close(ops.bias_gram(g), grads, g.dtype)


@settings(max_examples=120)
@given(problems())
def test_affine(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    xhat, g = problem
    ref = torch.randn(g.shape[2]).to(g.dtype)
    grads = truth.affine(xhat, g)
    assert_close(ops.affine_sqnorm(xhat, g), truth.sqnorm(grads), g.dtype)
    assert_dot_close(ops.affine_dot(xhat, g, ref), grads, ref, g.dtype)
    assert_gram_close(ops.affine_gram(xhat, g), grads, g.dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_positions_and_channels(layout: str, dtype: torch.dtype) -> None:
    xhat = lay_out(torch.randn(2, 300, 40, 30).to(dtype), layout, 1)
    g = lay_out(torch.randn(2, 2, 300, 40, 30).to(dtype), layout, 2)
    assert_close(ops.bias_sqnorm(g), truth.sqnorm(truth.bias(g)), dtype)
    assert_close(ops.affine_sqnorm(xhat, g), truth.sqnorm(truth.affine(xhat, g)), dtype)


def test_a_cotangent_expanded_from_one_number() -> None:
    g = torch.full((), 0.5).expand(2, 3, 8, 4, 4)
    assert_close(ops.bias_sqnorm(g), truth.sqnorm(truth.bias(g)), g.dtype)


@pytest.mark.parametrize("samples", [1, 3, 8])
def test_same_bits_for_any_number_of_threads(samples: int) -> None:
    xhat, g = torch.randn(samples, 20, 30, 30), torch.randn(3, samples, 20, 30, 30)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.bias_sqnorm(g), ops.affine_sqnorm(xhat, g)
        torch.set_num_threads(2)
        assert torch.equal(ops.bias_sqnorm(g), one[0])
        assert torch.equal(ops.affine_sqnorm(xhat, g), one[1])
    finally:
        torch.set_num_threads(threads)
