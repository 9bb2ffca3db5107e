"""Embedding tables: repeated tokens, padding, shapes, layouts and dtypes against autograd in float64."""

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
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(indices, g, padding_idx)."""
    rows, samples, positions = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(0, 30))
    tokens, width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(tokens, (samples, positions), generator=generator)
    if draw(st.booleans()):
        indices = indices.T.contiguous().T
    g = torch.randn(rows, samples, positions, width, generator=generator).to(dtype)
    return indices, lay_out(g, draw(st.sampled_from(LAYOUTS)), 3), draw(st.integers(-1, tokens - 1))


@settings(max_examples=150)
@given(problems())
def test_embedding(problem: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    indices, g, padding = problem
    grads = truth.embedding(indices, g, padding)
    ref = torch.randn(grads.shape[2:]).to(g.dtype)
    assert_close(ops.embedding_sqnorm(indices, g, padding), truth.sqnorm(grads), g.dtype)
    assert_dot_close(ops.embedding_dot(indices, g, ref, padding), grads, ref, g.dtype)
    assert_gram_close(ops.embedding_gram(indices, g, padding), grads, g.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_everywhere(dtype: torch.dtype) -> None:
    indices, g = torch.full((2, 50), 7), torch.randn(3, 2, 50, 33).to(dtype)
    assert_close(ops.embedding_sqnorm(indices, g), g.double().sum(2).square().sum(-1).T, dtype)
    assert torch.equal(
        ops.embedding_sqnorm(indices, g, 7), torch.zeros(2, 3, dtype=ops.embedding_sqnorm(indices, g).dtype)
    )


def test_tokens_may_be_large() -> None:
    indices, g = torch.tensor([[2**40, 5, 2**40]]), torch.randn(1, 1, 3, 4)
    want = g[0, 0, [0, 2]].sum(0).square().sum() + g[0, 0, 1].square().sum()
    torch.testing.assert_close(ops.embedding_sqnorm(indices, g)[0, 0], want)
