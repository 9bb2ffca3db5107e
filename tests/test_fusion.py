"""Fused steps of the backward plan: what they compute, in every shape that decides which step is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradfast
from gradfast import ops, reference

WIDTH = 16  # enough for Winograd's step, which takes over the scale and the mask


def norm(channels: int = WIDTH) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


class Block(nn.Module):
    """A residual block, of which ``change`` makes variants."""

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=change == "bias")
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bn1, self.bn2 = norm(), norm()
        if change == "no affine":
            self.bn1 = nn.BatchNorm2d(WIDTH, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        activate = F.silu if self.change == "silu" else F.relu
        c = self.conv1(x)
        y = activate(self.bn1(c))
        if self.change == "second consumer":
            y = y + 0.1 * c
        y = self.bn2(self.conv1(y) if self.change == "tied" else self.conv2(y))
        return activate(y if self.change == "plain" else y + x)


class Network(nn.Module):
    def __init__(self, *changes: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(c) for c in changes))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def away_from_kinks(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """The first so many samples whose ReLU inputs are far enough from zero for float32 to agree with float64 on every gate."""
    keep = torch.ones(len(x), dtype=torch.bool)

    def look(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        keep.logical_and_(out.abs().flatten(1).amin(1) > 1e-6)

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    assert int(keep.sum()) >= count
    return x[keep][:count]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool, bool]]:
    """For each call of conv3x3_backward: whether it got a mask, a scale, and took the norms."""
    calls: list[tuple[bool, bool, bool]] = []
    real = ops.conv3x3_backward

    def watched(*args: Tensor, **options: object) -> tuple[Tensor, Tensor]:
        calls.append(
            (
                options["mask"] is not None,
                options["scale"] is not None,
                options["need_sqnorm"] is True,
            )
        )
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ops, "conv3x3_backward", watched)
    return calls


VECTORS = pytest.mark.skipif(
    not ops.has_conv3x3_backward(torch.zeros(9, 9, 64, 32, 32), torch.zeros(64, 64, 3, 3)),
    reason="this processor has no vectors for Winograd's step",
)


def check(model: nn.Module, x: Tensor, **options: object) -> None:
    actual = gradfast.grad_norms(model, x, **options)  # type: ignore[arg-type]
    wanted = reference.grad_norms(model.double(), x.double(), **options)  # type: ignore[arg-type]
    model.float()
    assert actual.layers == wanted.layers
    scale = (
        wanted.values.double() + 1e-4 * wanted.values.double().amax((0, 1)) + 1e-300
    )  # tied: one is unused
    assert float(((actual.values.double() - wanted.values.double()).abs() / scale).max()) < 1e-4


CHANGES = ["", "plain", "bias", "tied", "second consumer", "silu", "no affine"]


@pytest.mark.parametrize("size", [32, 19])
@pytest.mark.parametrize("change", CHANGES)
def test_blocks_agree_with_autograd(change: str, size: int) -> None:
    torch.manual_seed(1)
    model = Network(change, "").eval()
    check(model, away_from_kinks(model, torch.randn(40, 3, size, size), 3))


@VECTORS
def test_winograds_step_takes_the_scale_and_where_it_can_the_mask(
    taken: list[tuple[bool, bool, bool]],
) -> None:
    torch.manual_seed(0)
    gradfast.grad_norms(Network("", "plain").eval(), torch.randn(2, 3, 32, 32))
    # Backwards: "plain" has no shortcut, so that its gates are masks; before it, the residual block's sum wants what is behind its gate.
    assert taken == [(True, True, True), (True, True, True), (False, True, True), (True, True, True)]


@VECTORS
@pytest.mark.parametrize("change", ["bias", "tied", "second consumer"])
def test_a_cotangent_that_is_needed_otherwise_is_scaled_at_once(
    taken: list[tuple[bool, bool, bool]], change: str
) -> None:
    torch.manual_seed(0)
    gradfast.grad_norms(Network(change).eval(), torch.randn(2, 3, 32, 32))
    assert (False, False, True) in taken


@VECTORS
def test_where_the_weight_is_not_asked_for_the_scale_is_left_to_the_convolution(
    taken: list[tuple[bool, bool, bool]],
) -> None:
    torch.manual_seed(1)
    model = Network("", "").eval()
    x = away_from_kinks(model, torch.randn(40, 3, 32, 32), 2)
    check(model, x, layers=["stem", "*.bn1.*"])
    assert taken
    assert all(scale and not norms for _, scale, norms in taken)


@pytest.mark.parametrize("wanted", ["gram", "dots"])
def test_what_is_not_a_norm_gets_its_cotangents_scaled(
    taken: list[tuple[bool, bool, bool]], wanted: str
) -> None:
    torch.manual_seed(1)
    model = Network("").eval()
    x = away_from_kinks(model, torch.randn(40, 3, 16, 16), 2)
    if wanted == "gram":
        actual = gradfast.grad_gram(model, x).values
        truth = reference.grad_gram(model.double(), x.double()).values
    else:
        direction = {n: torch.randn_like(p) for n, p in model.named_parameters()}
        actual = gradfast.grad_dots(model, x, direction).values
        exact = {n: d.double() for n, d in direction.items()}
        truth = reference.grad_dots(model.double(), x.double(), exact).values
    assert not any(any(call) for call in taken)  # Winograd as it is
    truth = truth.double()
    assert float((actual.double() - truth).abs().max() / truth.abs().max()) < 1e-5


def test_chunks_of_rows_and_samples_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = Network("", "plain").eval()
    x = away_from_kinks(model, torch.randn(40, 3, 32, 32), 3)
    whole = gradfast.grad_norms(model, x).values
    for budget in ("4MB", "6MB"):
        torch.testing.assert_close(
            gradfast.grad_norms(model, x, memory_budget=budget).values, whole, rtol=1e-5, atol=0
        )
