"""Ways from the input to the logits: batches folded into other dimensions, heads that choose, inputs of several tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.base import Function
from zoo.uses import USES, conv, embedding, linear, use, use_tokens

# The batch is not the leading dimension, or not alone in it
use(
    "sequence-first",
    (3, 6, 5),
    lambda m, x: m.head(m.ln(m.a(x.transpose(0, 1)).tanh())[-1]),
    a=linear(5, 5),
    ln=lambda: nn.LayerNorm(5),
    head=linear(5, 4),
)
use(
    "sequence-first-folded",
    (3, 6, 5),
    lambda m, x: m.head(m.a(x.transpose(0, 1).reshape(-1, 5)).tanh().view(6, -1, 5).mean(0)),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "positions-folded",
    (3, 6, 5),
    lambda m, x: m.head(m.ln(m.a(x.flatten(0, 1)).tanh()).unflatten(0, (-1, 6)).mean(1)),
    a=linear(5, 5),
    ln=lambda: nn.LayerNorm(5),
    head=linear(5, 4),
)


def windows(m: nn.Module, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    x = x.roll((-1, -1), (1, 2)).view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
    q, k, v = m.qkv(x).unflatten(-1, (3, c)).unbind(2)
    y = (
        m.proj((q @ k.mT).softmax(-1) @ v)
        .view(b, h // 2, w // 2, 2, 2, c)
        .transpose(2, 3)
        .reshape(b, h, w, c)
    )
    return m.head(y.roll((1, 1), (1, 2)).mean((1, 2)))


use("shifted-windows", (3, 4, 6, 5), windows, qkv=linear(5, 15), proj=linear(5, 5), head=linear(5, 4))
use(
    "frames-folded",
    (3, 4, 2, 6, 6),
    lambda m, x: m.head(m.gn(m.bn(m.a(x.flatten(0, 1)))).tanh().mean((2, 3)).unflatten(0, (-1, 4)).mean(1)),
    a=conv(2, 4, stride=2),
    bn=lambda: nn.BatchNorm2d(4),
    gn=lambda: nn.GroupNorm(2, 4),
    head=linear(4, 4),
)
use(
    "frames-folded-time-first",
    (3, 4, 2, 6, 6),
    lambda m, x: m.head(m.a(x.transpose(0, 1).flatten(0, 1)).tanh().mean((2, 3)).view(4, -1, 5).mean(0)),
    a=conv(2, 5),
    head=linear(5, 4),
)
use(
    "patches-folded",
    (3, 2, 6, 6),
    lambda m, x: m.head(
        m.a(F.unfold(x, 3, stride=3).mT.reshape(-1, 2, 3, 3)).flatten(1).tanh().view(-1, 4, 5).amax(1)
    ),
    a=conv(2, 5),
    head=linear(5, 4),
)
use(
    "two-views-stacked",
    (3, 5),
    lambda m, x: m.head(
        m.a(torch.cat([x, -x])).tanh()[: len(x)] - m.a(torch.cat([x, 2 * x])).tanh()[len(x) :]
    ),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "batch-last",
    (3, 6, 5),
    lambda m, x: m.head((m.w @ x.permute(1, 2, 0)).tanh().mean(0).t()),
    w=(5, 5),
    head=linear(5, 4),
)

# Heads that choose, networks that route
use_tokens(
    "end-of-text-token",
    (3, 6),
    lambda m, x: m.head(m.a(m.e(x)).tanh()[torch.arange(len(x)), x.argmax(1)]),
    e=embedding,
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "gather-and-topk",
    (3, 6, 5),
    lambda m, x: m.head(m.a(x).topk(2, dim=1).values.mean(1) + m.a(x).gather(1, x.argsort(1)[:, :1])[:, 0]),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "channel-shuffle",
    (3, 4, 5, 5),
    lambda m, x: m.head(m.b(F.channel_shuffle(m.a(x), 2)).relu().mean((2, 3))),
    a=conv(4, 4, 1, groups=2),
    b=conv(4, 4, groups=4, padding=1),
    head=linear(4, 4),
)
use(
    "squeeze-excite",
    (3, 4, 5, 5),
    lambda m, x: m.head((x * m.b(m.a(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()).mean((2, 3))),
    a=conv(4, 2, 1),
    b=conv(2, 4, 1),
    head=linear(4, 4),
)
use(
    "mixture-of-experts",
    (3, 5),
    lambda m, x: torch.stack([m.a(x), m.b(x)], 2).mul(m.gate(x).softmax(1)[:, None]).sum(2),
    a=linear(5, 4),
    b=linear(5, 4),
    gate=linear(5, 2),
)
use(
    "pool-upsample-concatenate",
    (3, 3, 8, 8),
    lambda m, x: m.head(torch.cat([m.a(x), m.up(F.max_pool2d(m.a(x), 2))], 1).relu().flatten(1)),
    a=conv(3, 2, padding=1),
    up=lambda: nn.ConvTranspose2d(2, 2, 2, stride=2),
    head=linear(256, 4),
)
use(
    "resampling",
    (3, 3, 6, 6),
    lambda m, x: m.head(F.interpolate(F.pixel_shuffle(m.a(x), 2), size=(5, 5), mode="bilinear").flatten(1)),
    a=conv(3, 4, padding=1),
    head=linear(25, 4),
)
use(
    "fused-attention",
    (3, 6, 8),
    lambda m, x: m.head(
        F.scaled_dot_product_attention(*m.qkv(x).view(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4))
        .transpose(1, 2)
        .flatten(2)
    ).mean(1),
    qkv=linear(8, 24),
    head=linear(8, 4),
)
use(
    "checkpoint-saved-tensor-hooks",
    (3, 5),
    lambda m, x: m.head(checkpoint(lambda h: m.a(h).tanh(), m.b(x).tanh(), use_reentrant=False)),
    a=linear(5, 5),
    b=linear(5, 5),
    head=linear(5, 4),
)


class Cube(torch.autograd.Function):
    """A user's own autograd function."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x**2 * g


use(
    "own-autograd-function",
    (3, 5),
    lambda m, x: m.head(Cube.apply(m.a(x))),
    a=linear(5, 5),
    head=linear(5, 4),
)


# Inputs of several tensors, and values that are no tensors
@USES.add("two-arguments")
def _() -> tuple[nn.Module, tuple[object, ...]]:
    net = Function(lambda m, x, y, scale: m.head((m.a(x) + scale * m.b(y)).tanh()),
                   a=nn.Linear(5, 6), b=nn.Linear(3, 6), head=nn.Linear(6, 4))  # fmt: skip
    return net, (torch.randn(3, 5), torch.randn(3, 3), 0.5)


@USES.add("keyword-arguments")
def _() -> tuple[nn.Module, dict[str, object]]:
    def forward(m: nn.Module, ids: Tensor, mask: Tensor, pooled: bool) -> Tensor:
        h = m.embed(ids).masked_fill(~mask[..., None], 0)
        return m.head(m.a(h).tanh().mean(1) if pooled else h[:, 0])

    net = Function(forward, embed=nn.Embedding(7, 5), a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    return net, {"ids": torch.randint(7, (3, 6)), "mask": torch.rand(3, 6) > 0.3, "pooled": True}


@USES.add("unused-parameter")
def _() -> tuple[nn.Module, Tensor]:
    return Function(lambda m, x: m.head(x), head=nn.Linear(5, 4), spare=nn.Linear(5, 4)), torch.randn(3, 5)


@USES.add("frozen-layers")
def _() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4))
    net[0].requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net, torch.randn(3, 5)
