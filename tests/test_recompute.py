"""Blocks whose activations are made again under a memory budget: the same numbers, and what cannot be run twice is not."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradfast
from gradfast import reference
from gradfast.engine import recompute
from gradfast.engine.recompute import Recomputation, blocks_of
from gradfast.errors import InputError, ModelError


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    def __init__(self, depth: int = 6, block: type[nn.Module] = Block) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(block() for _ in range(depth)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Sequential(*(Residual() for _ in range(5))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


MODELS = {
    "transformer": (Transformer, (12, 16)),
    "resnet": (resnet, (3, 20, 20)),
}


def least(model: nn.Module, x: Tensor, **options: Any) -> int:
    """The smallest budget, as the error tells it."""
    with pytest.raises(InputError, match="wanted") as caught:
        gradfast.grad_norms(model, x, memory_budget=1, **options)
    return int(str(caught.value).split("wanted ")[1].split()[0])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the blocks that were run again."""
    found: list[str] = []
    run_again = recompute._Frame._run_again

    def counted(frame: recompute._Frame) -> list[Tensor]:
        found.append(frame._name)
        return run_again(frame)

    monkeypatch.setattr(recompute._Frame, "_run_again", counted)
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("samples", [1, 5])
def test_the_numbers_are_those_of_a_pass_that_keeps_everything(
    name: str, samples: int, runs: list[str]
) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = build().double().eval(), torch.randn(samples, *shape, dtype=torch.float64)
    budget = least(model, x)
    runs.clear()
    found = gradfast.grad_norms(model, x, memory_budget=budget)
    assert set(runs) == set(blocks_of(model))
    torch.testing.assert_close(found.values, reference.grad_norms(model, x).values, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.logits, model(x))


def test_a_block_runs_again_once_a_sweep_and_gives_the_same_bits(runs: list[str]) -> None:
    model, x = Transformer().eval(), torch.randn(1, 12, 16)
    budget = least(model, x, contrast="all-ones")
    runs.clear()
    found = gradfast.grad_norms(model, x, contrast="all-ones", memory_budget=budget)
    assert runs == [f"blocks.{i}" for i in reversed(range(6))]
    assert torch.equal(found.values, gradfast.grad_norms(model, x, contrast="all-ones").values)


def test_the_least_budget_does_not_grow_with_the_blocks() -> None:
    """Beyond what enters each of them."""
    x = torch.randn(2, 40, 16)
    entering = 40 * 16 * 4
    few, many = (least(Transformer(depth).eval(), x) for depth in (4, 12))
    assert many - few == 8 * entering


def test_nothing_runs_again_where_all_fits(runs: list[str]) -> None:
    model, x = Transformer().eval(), torch.randn(3, 12, 16)
    whole = gradfast.grad_norms(model, x)
    assert not runs
    split = gradfast.grad_norms(model, x, memory_budget="1GB")
    first = len(runs)  # the pass that told so made its blocks again
    torch.testing.assert_close(split.values, whole.values)
    gradfast.grad_norms(model, x, memory_budget="1GB")
    gradfast.grad_norms(model, x[:1], memory_budget="1GB")
    again = len(runs)
    gradfast.grad_norms(model, x[:1], memory_budget="1GB")
    assert first <= 6
    assert len(runs) == again


@pytest.mark.parametrize("metric", ["gram", "dots"])
def test_other_metrics(metric: str, runs: list[str]) -> None:
    model, x = Transformer().eval(), torch.randn(2, 40, 16)
    reference_gradients = {n: torch.randn_like(p) for n, p in model.named_parameters()}

    def call(**options: Any) -> Tensor:
        if metric == "gram":
            return gradfast.grad_gram(model, x, **options).values
        return gradfast.grad_dots(model, x, reference_gradients, **options).values

    wanted = call()
    with pytest.raises(InputError) as caught:
        call(memory_budget=1)
    runs.clear()
    found = call(memory_budget=int(str(caught.value).split("wanted ")[1].split()[0]))
    assert runs
    torch.testing.assert_close(found, wanted)


def test_bfloat16_operands(runs: list[str]) -> None:
    model, x = Transformer().eval(), torch.randn(2, 40, 16)
    budget = least(model, x, dtype=torch.bfloat16)
    runs.clear()
    found = gradfast.grad_norms(model, x, dtype=torch.bfloat16, memory_budget=budget)
    assert runs
    torch.testing.assert_close(
        found.values, gradfast.grad_norms(model, x, dtype=torch.bfloat16).values, rtol=1e-3, atol=1e-6
    )


class Spoiled(Block):
    """A block that cannot be run twice."""

    how = ""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.how == "buffer":
            self.seen.add_(1)
            return y + self.seen * 0
        if self.how == "random":
            return y + 0 * torch.rand(())
        with torch.no_grad():
            x.mul_(2)  # no operation saved its value but the block's own input
        return y


@pytest.mark.parametrize("how", ["buffer", "random", "input"])
def test_a_block_that_cannot_be_run_twice_is_kept(
    how: str, monkeypatch: pytest.MonkeyPatch, runs: list[str]
) -> None:
    monkeypatch.setattr(Spoiled, "how", how)
    model = Transformer(3).eval()
    model.blocks[1] = Spoiled().eval()
    x = torch.randn(1, 12, 16)
    model(x)
    tape = Recomputation(model)
    with torch.enable_grad(), tape.recording():
        model(x.clone().requires_grad_() * 1)
    assert tape.refused == {"blocks.1"}
    budget = least(model, x) if how != "input" else None
    runs.clear()
    if budget is not None:
        gradfast.grad_norms(model, x, memory_budget=budget)
        assert set(runs) == {"blocks.0", "blocks.2"}


def test_a_block_that_takes_another_way_when_run_again_is_refused() -> None:
    class Fickle(Block):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            y = super().forward(x)
            return y.tanh() if self.calls % 2 else y

    model, x = Transformer(2, Fickle).eval(), torch.randn(1, 12, 16)
    with pytest.raises(ModelError, match=r"blocks\.1 does not do the same when it runs again"):
        gradfast.grad_norms(model, x, memory_budget="1GB")


def test_the_model_is_as_before_and_nothing_is_left_in_memory() -> None:
    model, x = Transformer().eval(), torch.randn(2, 12, 16)
    budget = least(model, x)
    held: list[weakref.ref[Any]] = []
    init = recompute._Frame.__init__

    def watched(frame: recompute._Frame, *args: Any) -> None:
        held.append(weakref.ref(frame))
        init(frame, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute._Frame, "__init__", watched)
        gc.disable()
        try:
            gradfast.grad_norms(model, x, memory_budget=budget)
            alive = sum(frame() is not None for frame in held)
        finally:
            gc.enable()
    assert held
    assert alive == 0
    assert all("forward" not in vars(m) for m in model.modules())


def test_it_is_explained() -> None:
    model, x = Transformer().eval(), torch.randn(2, 40, 16)
    plan = gradfast.explain(model, x, memory_budget=least(model, x))
    assert plan.recomputed
    assert "made again" in " ".join(str(plan).split())
    assert not gradfast.explain(model, x).recomputed


def test_which_modules_are_blocks() -> None:
    assert list(blocks_of(Transformer(2))) == ["blocks.0", "blocks.1"]
    assert list(blocks_of(resnet())) == [f"1.{i}" for i in range(5)]
    assert blocks_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))) == {}
