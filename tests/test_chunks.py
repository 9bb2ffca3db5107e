"""What the planner counts of a call's memory, and that what it chooses fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradfast
from gradfast import reference
from gradfast.engine import chunks, collect
from gradfast.engine.book import book_of
from gradfast.engine.plan import Cost
from gradfast.engine.session import Session
from gradfast.errors import InputError

FLOAT = 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(attended.transpose(1, 2).flatten(2).mean(1))


class Language(nn.Module):
    """A head on the last token, whose weight is the token table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).tanh()[:, -1])


def cost_of(model: nn.Module, x: Tensor) -> Cost:
    gradfast.grad_norms(model, x)
    plans = next(iter(book_of(model)._plans.values()))
    return plans[-1][1].cost


def test_the_cotangents_of_queries_keys_and_values_are_all_counted() -> None:
    """They are three outputs of one operation."""
    length = 40
    cost = cost_of(Attention(), torch.randn(3, length, 16))
    tensor = length * 16 * FLOAT
    assert cost.cotangents >= 4 * tensor  # and that of what attention gave
    assert cost.largest == 3 * tensor  # of the projection's output


class Mixed(nn.Module):
    """A weight that is used by operations of two kinds that do not join."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.body, self.head, self.again = nn.Linear(8, 8), nn.Linear(8, 3), again

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).tanh()
        return self.head((y * self.body.weight if self.again else y).mean(1))


@pytest.mark.parametrize("samples", [1, 3])
def test_the_gradient_of_a_weight_that_is_used_in_two_ways_is_counted(samples: int) -> None:
    x = torch.randn(samples, 8, 8)
    twice, once = cost_of(Mixed(True), x), cost_of(Mixed(False), x)
    assert (twice.dense, twice.dense_rows) == (3 * 8 * 8 * FLOAT, collect.DENSE_ELEMENTS // 64)
    assert once.dense == 0


def test_the_gradient_of_a_tied_table_is_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    def formed(*_: Any) -> None:
        raise AssertionError("formed")

    monkeypatch.setattr(collect.Collector, "_from_gradients", formed)
    assert cost_of(Language(), torch.randint(50, (3, 6))).dense == 0


def test_a_weight_made_from_others_is_counted_too() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(20, 30)), nn.Tanh(), nn.Linear(30, 4)
    )
    assert cost_of(model, torch.randn(3, 20)).dense == 3 * 30 * 20 * FLOAT


def test_cotangents_that_wait_for_a_parameters_other_uses_are_counted() -> None:
    class Twice(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            self.wide = nn.Linear(64, 64)
            self.other = self.wide if again else nn.Linear(64, 64)
            self.narrow, self.head = nn.Linear(64, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.narrow(self.other(self.wide(x).tanh()).tanh()).tanh().mean(1))

    x = torch.randn(2, 10, 64)
    wide = 10 * 64 * FLOAT
    assert cost_of(Twice(True), x).cotangents >= cost_of(Twice(False), x).cotangents + wide


@pytest.mark.parametrize("all_rows", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_what_is_chosen_fits(rows: int, all_rows: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    refused = 0
    for _ in range(500):
        activations, cotangents, dense, dense_rows = (
            int(10 ** float(4 * torch.rand((), generator=generator))) for _ in range(4)
        )
        cost = Cost(activations, cotangents, cotangents, dense, dense_rows)
        budget = int(10 ** (3 + 5 * float(torch.rand((), generator=generator))))

        def needed(samples: int, rows: int, cost: Cost = cost) -> int:
            formed = rows if all_rows else min(rows, cost.dense_rows)
            return samples * (cost.activations + rows * cost.cotangents) + formed * cost.dense

        try:
            samples, at_a_time = chunks.chunk(cost, 1, rows, budget, all_rows)
        except InputError:
            assert needed(1, rows if all_rows else 1) > budget
            refused += 1
            continue
        assert 1 <= at_a_time <= rows
        assert samples == 1 or at_a_time == rows
        assert needed(samples, at_a_time) <= budget
        if at_a_time < rows:
            assert needed(1, at_a_time + 1) > budget
    assert 0 < refused < 500


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each forward pass was given, in order."""
    sizes: list[int] = []
    record = Session.record

    def watched(self: Session, x: Any, chunk: slice, **options: Any) -> Any:
        sizes.append(chunk.stop - chunk.start)
        return record(self, x, chunk, **options)

    monkeypatch.setattr(Session, "record", watched)
    return sizes


def test_under_a_budget_one_sample_goes_first_and_two_make_the_plan(sizes: list[int]) -> None:
    """More at once might pass the budget before it is known what one takes; and a plan is made with probes of each sample."""
    model, x = Attention(), torch.randn(24, 10, 16)
    gradfast.grad_norms(model, x, memory_budget="1GB")
    assert sizes == [1, 2, 24]
    gradfast.grad_norms(model, x, memory_budget="1GB")
    assert sizes[3:] == [24]


@pytest.mark.parametrize("budget", [None, 60_000])
def test_the_same_samples_go_together_whatever_ran_before(
    budget: int | None, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a sample's norms depend on how many go with it."""
    monkeypatch.setattr(chunks, "LARGEST_TENSOR", 70_000)
    model, x = Attention(), torch.randn(45, 10, 16)
    gradfast.grad_norms(model, x, memory_budget=budget)
    at_first = list(sizes)
    for rows in ({"contrast": "all-ones"}, {"classes": [0]}):
        gradfast.grad_norms(model, x[:7], memory_budget=budget, **rows)
        gradfast.grad_norms(model, x[:1], memory_budget=budget)
        sizes.clear()
        gradfast.grad_norms(model, x, memory_budget=budget)
        assert sum(sizes) == 45
        assert len(sizes) > 1
        assert at_first[-len(sizes) :] == sizes


def test_what_one_sample_needs_is_said() -> None:
    model, x = Attention(), torch.randn(3, 40, 16)
    cost = cost_of(model, x)
    with pytest.raises(
        InputError,
        match=rf"which one sample needs: {cost.activations} bytes of activations, with all made again that can be",
    ):
        gradfast.grad_norms(model, x, memory_budget=cost.activations)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_tied_table_is_not_formed_where_its_weight_is_cast_either(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def formed(*_: Any) -> None:
        raise AssertionError("formed")

    torch.manual_seed(0)
    model, x = Language(), torch.randint(50, (3, 6))
    monkeypatch.setattr(collect.Collector, "_from_gradients", formed)
    found = gradfast.grad_norms(model, x, classes=[1, 2], dtype=dtype).values
    truth = reference.grad_norms(model.double(), x, classes=[1, 2]).values
    torch.testing.assert_close(found.double(), truth, rtol=1e-5 if dtype is None else 3e-2, atol=1e-6)
