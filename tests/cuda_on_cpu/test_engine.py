"""`grad_norms` of whole networks with every operator served by the CUDA sources, run on the CPU."""

from __future__ import annotations

import types
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradfast
from gradfast import ops, reference
from gradfast.rules import convolution

Block = Callable[[], nn.Module]


class Residual(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


def resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(stem, Residual(8, 16, 2), Residual(16, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(24, 5))  # fmt: skip


class Vit(nn.Module):
    """Patches, one encoder layer, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


MODELS: dict[str, Block] = {"resnet": resnet, "vit": Vit}


@pytest.fixture
def served(emulated: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Sends every call of `gradfast.ops` to the emulated operators, and counts them."""
    calls: Counter[str] = Counter()

    class Emulated:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            calls[name] += 1
            return getattr(emulated, name)

    monkeypatch.setattr(ops, "_ops", Emulated())
    monkeypatch.setattr(convolution.ops, "has_conv3x3_backward", lambda g, weight: False)  # as on a GPU
    monkeypatch.setattr(convolution.ops, "has_conv_input_grad", lambda g, weight, stride: False)
    return calls


@pytest.mark.parametrize("name", MODELS)
def test_grad_norms_of_a_network(served: Counter[str], name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(3, 3, 16, 16)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        actual = gradfast.grad_norms(model, x)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    wanted = reference.grad_norms(model.double(), x.double())
    assert actual.layers == wanted.layers
    scale = wanted.values + 1e-4 * wanted.values.amax((0, 1), keepdim=True) + 1e-9 * wanted.values.max()
    assert ((actual.values.double() - wanted.values) / scale).abs().max() < 1e-4
    wanted_ops = {
        "resnet": {"conv_sqnorm", "linear_sqnorm", "bias_sqnorm", "gate_backward"},
        "vit": {"linear_sqnorm", "affine_sqnorm"},
    }
    assert wanted_ops[name] <= set(served), dict(served)


def test_grad_gram_and_grad_dots_of_a_network(served: Counter[str]) -> None:
    torch.manual_seed(0)
    model = resnet().eval().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    actual, wanted = gradfast.grad_gram(model, x), reference.grad_gram(model, x)
    torch.testing.assert_close(actual.values.double(), wanted.values.double(), rtol=1e-5, atol=1e-6)
    directions = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    dots, wanted_dots = gradfast.grad_dots(model, x, directions), reference.grad_dots(model, x, directions)
    torch.testing.assert_close(dots.values.double(), wanted_dots.values.double(), rtol=1e-5, atol=1e-6)
    assert {"conv_gram", "conv_dot"} <= set(served), dict(served)


class Attention(nn.Module):
    """Attention as `Session.record` has it recorded on CUDA: by the MATH backend, whatever the options."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.key_heads = 1 if options.get("enable_gqa") else 2
        self.q, self.k, self.v = (
            nn.Linear(6, 8),
            nn.Linear(6, 4 * self.key_heads),
            nn.Linear(6, 4 * self.key_heads),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k, v = (f(x).unflatten(-1, (self.key_heads, 4)).transpose(1, 2) for f in (self.k, self.v))
        with sdpa_kernel(SDPBackend.MATH):
            attended = nn.functional.scaled_dot_product_attention(q, k, v, **self.options)
        return self.head(attended.transpose(1, 2).flatten(2).mean(1))


ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "bool-mask": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
    "all-masked-row": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(-1)},
    "float-mask": {"attn_mask": torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5)},
    "grouped-queries": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_as_recorded_on_cuda(served: Counter[str], name: str) -> None:
    """No fallback: products and softmax have rules for all rows."""
    torch.manual_seed(0)
    model, x = Attention(**ATTENTIONS[name]).double().eval(), torch.randn(3, 5, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", gradfast.errors.FallbackWarning)
        actual = gradfast.grad_norms(model, x)
    wanted = reference.grad_norms(model, x)
    torch.testing.assert_close(actual.values.double(), wanted.values.double(), rtol=1e-9, atol=1e-12)
    assert served["linear_sqnorm"] >= 4
