"""The same bits in every run; the same numbers, within a stated tolerance, on any number of threads; no graph breaks at our operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import gradfast
from gradfast import ops
from gradfast.models.cifar_resnet import resnet20

# Relative, of each norm, between thread counts: sums are cut at other places. Of the layer's largest where a norm cancels.
ACROSS_THREADS = 1e-4


def small_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=4
    )
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet20, "vit": small_vit}


def norms(name: str, threads: int) -> Tensor:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    return gradfast.grad_norms(model, torch.randn(3, 3, 32, 32), classes=[0, 2]).values


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_in_every_run(name: str, count: int) -> None:
    assert torch.equal(norms(name, count), norms(name, count))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_numbers_on_other_thread_counts(name: str) -> None:
    one, two = norms(name, 1), norms(name, 2)
    largest = one.amax((0, 1))
    assert ((one - two).abs() <= ACROSS_THREADS * (one + 1e-2 * largest)).all()


class TestCompiled:
    """A model that calls our operators compiles as one graph: each has a fake kernel."""

    def linear(self, x: Tensor, g: Tensor) -> Tensor:
        return ops.linear_sqnorm(x * 2, g).sqrt()

    def bias(self, x: Tensor, g: Tensor) -> Tensor:
        return ops.bias_sqnorm(g.relu()) + x.sum()

    @pytest.mark.parametrize("name", ["linear", "bias"])
    def test_without_a_graph_break(self, name: str) -> None:
        function = getattr(self, name)
        x, g = torch.randn(3, 5, 4), torch.randn(2, 3, 5, 6)
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, g), function(x, g))
        explained = torch._dynamo.explain(function)(x, g)
        assert explained.graph_break_count == 0


@pytest.mark.parametrize("budget", [None, "3MB"])
def test_the_same_bits_whatever_ran_before(budget: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip
    x = torch.randn(45, 3, 32, 32)
    first = gradfast.grad_norms(model, x, memory_budget=budget)
    gradfast.grad_norms(model, x[:7], contrast="all-ones", memory_budget=budget)
    gradfast.grad_norms(model, x[:1], memory_budget=budget)
    later = gradfast.grad_norms(model, x, memory_budget=budget)
    assert torch.equal(first.values, later.values)
    assert torch.equal(first.logits, later.logits)
