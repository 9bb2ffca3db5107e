"""Linear layers: every form, shape, layout and dtype against autograd in float64."""

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
    rows, samples, positions = draw(st.integers(0, 5)), draw(st.integers(0, 4)), draw(st.integers(0, 40))
    inputs, outputs = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, positions, inputs, generator=generator).to(dtype)
    g = torch.randn(rows, samples, positions, outputs, generator=generator).to(dtype)
    return lay_out(x, draw(st.sampled_from(LAYOUTS)), 2), lay_out(g, draw(st.sampled_from(LAYOUTS)), 3)


@settings(max_examples=120)
@given(problems(), st.sampled_from(["auto", "direct", "gram"]))
def test_sqnorm(problem: tuple[torch.Tensor, torch.Tensor], form: str) -> None:
    x, g = problem
    assert_close(ops.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), x.dtype)


@settings(max_examples=60)
@given(problems())
def test_dot(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, g = problem
    ref = torch.randn(g.shape[3], x.shape[2]).to(x.dtype)
    grads = truth.linear(x, g)
    assert_dot_close(ops.linear_dot(x, g, ref), grads, ref, x.dtype)
    sqnorm, dot = ops.linear_sqnorm_dot(x, g, ref)
    assert torch.equal(sqnorm, ops.linear_sqnorm(x, g))
    assert_dot_close(dot, grads, ref, x.dtype)


@settings(max_examples=60)
@given(problems())
def test_gram(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, g = problem
    assert_gram_close(ops.linear_gram(x, g), truth.linear(x, g), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["auto", "direct", "gram"])
@pytest.mark.parametrize(
    ("positions", "inputs", "outputs"), [(300, 200, 150), (257, 33, 129), (64, 1100, 3), (1, 513, 1)]
)
def test_sizes_beyond_one_block(
    dtype: torch.dtype, form: str, positions: int, inputs: int, outputs: int
) -> None:
    x = torch.randn(2, positions, inputs).to(dtype)
    g = torch.randn(3, 2, positions, outputs).to(dtype)
    grads = truth.linear(x, g)
    assert_close(ops.linear_sqnorm(x, g, form), truth.sqnorm(grads), dtype)
    ref = torch.randn(outputs, inputs).to(dtype)
    assert_dot_close(ops.linear_sqnorm_dot(x, g, ref)[1], grads, ref, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rank_one(dtype: torch.dtype) -> None:
    x, g = torch.randn(3, 1, 77).to(dtype), torch.randn(5, 3, 1, 10).to(dtype)
    assert_close(ops.linear_sqnorm(x, g, "rank_one"), truth.sqnorm(truth.linear(x, g)), dtype)


@pytest.mark.parametrize("form", ["direct", "gram"])
def test_a_norm_that_cancels_is_not_negative(form: str) -> None:
    x = torch.ones(1, 2, 3)
    g = torch.tensor([1.0, -1.0]).view(1, 1, 2, 1) * torch.full((1, 1, 1, 7), 1 / 3)
    assert ops.linear_sqnorm(x, g, form).item() >= 0


@pytest.mark.parametrize("form", ["direct", "gram"])
@pytest.mark.parametrize("samples", [1, 3, 8])
def test_same_bits_for_any_number_of_threads(form: str, samples: int) -> None:
    x, g = torch.randn(samples, 130, 40), torch.randn(3, samples, 130, 50)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.linear_sqnorm(x, g, form)
        torch.set_num_threads(2)
        assert torch.equal(ops.linear_sqnorm(x, g, form), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("form", ["direct", "gram"])
def test_a_sample_with_nan_does_not_touch_the_others(form: str) -> None:
    x, g = torch.randn(3, 20, 10), torch.randn(2, 3, 20, 5)
    clean = ops.linear_sqnorm(x, g, form)
    x[1, 4, 2] = float("nan")
    got = ops.linear_sqnorm(x, g, form)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    ("rows", "positions", "outputs"), [(30, 3, 500), (40, 1, 130), (14, 90, 70), (13, 200, 40)]
)
def test_gram_of_many_rows(rows: int, positions: int, outputs: int) -> None:
    x, g = torch.randn(2, positions, 50), torch.randn(rows, 2, positions, outputs)
    assert_gram_close(ops.linear_gram(x, g), truth.linear(x, g), x.dtype)
    assert torch.equal(ops.linear_gram(x, g), ops.linear_gram(x, g).mT)


@pytest.mark.parametrize("form", ["auto", "direct", "gram"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("positions", [3, 4, 20])
def test_expanded_operands(samples: int, positions: int, form: str) -> None:
    """Positions that repeat in memory, as behind a mean, are as many as they seem."""
    generator = torch.Generator().manual_seed(positions)
    x = torch.randn(samples, positions, 6, generator=generator)
    g = torch.randn(4, samples, 1, 5, generator=generator).expand(-1, -1, positions, -1)
    assert_close(ops.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), x.dtype)
    same = x[:, :1].expand(-1, positions, -1)
    other = torch.randn(4, samples, positions, 5, generator=generator)
    assert_close(ops.linear_sqnorm(same, other, form), truth.sqnorm(truth.linear(same, other)), x.dtype)
