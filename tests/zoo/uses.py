"""Ways to use a parameter that modules do not show: tied, reused, functional, sliced, in place, folded batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from zoo.base import Function, Registry

USES = Registry()

Forward = Callable[..., Tensor]


def use(name: str, shape: tuple[int, ...], forward: Forward, fallback: bool = False, **parts: object) -> None:
    """Registers ``forward(m, x)`` for normal inputs of a shape; parts are modules' makers or parameters' shapes."""

    def build() -> tuple[nn.Module, Tensor]:
        return Function(forward, **made(parts)), torch.randn(shape)

    USES.put(name, build, fallback)


def use_tokens(
    name: str, shape: tuple[int, ...], forward: Forward, fallback: bool = False, **parts: object
) -> None:
    """The same for token indices below 7."""

    def build() -> tuple[nn.Module, Tensor]:
        return Function(forward, **made(parts)), torch.randint(7, shape)

    USES.put(name, build, fallback)


def made(parts: dict[str, object]) -> dict[str, nn.Module | Tensor]:
    return {k: torch.randn(p) / p[-1] ** 0.5 if isinstance(p, tuple) else p() for k, p in parts.items()}  # type: ignore[operator]


def linear(d: int, o: int, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(d, o, bias)


def conv(c: int, o: int, k: int = 3, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(c, o, k, **options)  # type: ignore[arg-type]


def embedding() -> nn.Module:
    return nn.Embedding(7, 5)


# Reused parameters: the norm of a sum is not the sum of norms
use("linear-twice", (3, 5), lambda m, x: m.head(m.a(m.a(x).tanh()).tanh()), a=linear(5, 5), head=linear(5, 4))
use(
    "linear-at-two-places",
    (3, 6, 5),
    lambda m, x: m.head(m.a(x).tanh().mean(1) + m.a(m.b(x[:, 0]).tanh())),
    a=linear(5, 5),
    b=linear(5, 5),
    head=linear(5, 4),
)
use(
    "linear-recurrent",
    (3, 4, 5),
    lambda m, x: m.head(m.a(m.a(m.a(x[:, 0]).tanh() + x[:, 1]).tanh() + x[:, 2]).tanh()),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "conv-twice",
    (3, 3, 6, 6),
    lambda m, x: m.head(m.a(m.a(x).tanh()).tanh().mean((2, 3))),
    a=conv(3, 3, padding=1),
    head=linear(3, 4),
)
use(
    "conv-at-two-scales",
    (3, 3, 8, 8),
    lambda m, x: m.head(m.a(x).tanh().mean((2, 3)) + m.a(F.avg_pool2d(x, 2)).tanh().mean((2, 3))),
    a=conv(3, 5),
    head=linear(5, 4),
)
use(
    "norms-twice",
    (3, 4, 6),
    lambda m, x: m.head(m.bn(m.ln(m.bn(m.ln(x)).tanh()).transpose(1, 2).transpose(1, 2)).flatten(1)),
    bn=lambda: nn.BatchNorm1d(4),
    ln=lambda: nn.LayerNorm(6),
    head=linear(24, 4),
)
use(
    "one-bias-for-two-layers",
    (3, 5),
    lambda m, x: m.head((F.linear(x, m.u, m.b).tanh() @ m.v + m.b).tanh()),
    u=(5, 5),
    v=(5, 5),
    b=(5,),
    head=linear(5, 4),
)
use(
    "linear-and-convolution-share",
    (3, 5, 4, 4),
    lambda m, x: m.head(
        F.conv2d(x, m.w[:, :, None, None]).tanh().mean((2, 3)) + F.linear(x[:, :, 0, 0], m.w)
    ),
    w=(5, 5),
    head=linear(5, 4),
    fallback=True,
)
use(
    "autoencoder-tied",
    (3, 6),
    lambda m, x: m.head(F.linear(F.linear(x, m.w, m.b).tanh(), m.w.t(), m.c)),
    w=(4, 6),
    b=(4,),
    c=(6,),
    head=linear(6, 4),
)
use_tokens(
    "embedding-twice",
    (3, 8),
    lambda m, x: m.head(m.e(x[:, :4]).mean(1) * m.e(x[:, 4:]).mean(1)),
    e=embedding,
    head=linear(5, 4),
)


def language_model() -> dict[str, nn.Module]:
    parts = {"embed": nn.Embedding(7, 5), "mix": nn.Linear(5, 5), "head": nn.Linear(5, 7, bias=False)}
    parts["head"].weight = parts["embed"].weight
    return parts


@USES.add("tied-embedding-last-token")
def _() -> tuple[nn.Module, Tensor]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(m.mix(m.embed(x)).tanh()[:, -1])

    return Function(forward, **language_model()), torch.randint(7, (3, 6))


@USES.add("tied-embedding-every-token")
def _() -> tuple[nn.Module, Tensor]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(m.mix(m.embed(x)).tanh()).mean(1)

    return Function(forward, **language_model()), torch.randint(7, (3, 6))


@USES.add("module-under-two-names")
def _() -> tuple[nn.Module, Tensor]:
    shared = nn.Linear(5, 5)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(5, 4)), torch.randn(3, 5)


# Functional use: slices, transposes, products, weights that are computed
use(
    "functional-linear",
    (3, 5),
    lambda m, x: F.linear(F.linear(x, m.w, m.b).tanh(), m.v),
    w=(6, 5),
    b=(6,),
    v=(4, 6),
)
use("functional-slice", (3, 5), lambda m, x: F.linear(F.linear(x, m.w[:3]).tanh(), m.v), w=(6, 5), v=(4, 3))
use(
    "functional-packed",
    (3, 5),
    lambda m, x: F.linear(x, m.w[:4], m.b[:4]) * F.linear(x, m.w[4:], m.b[4:]).sigmoid(),
    w=(8, 5),
    b=(8,),
)
use(
    "functional-chunk",
    (3, 6, 5),
    lambda m, x: torch.stack([F.linear(x, w).tanh().mean(1) for w in m.w.chunk(3)]).sum(0),
    w=(12, 5),
)
use(
    "functional-overlapping-slices",
    (3, 5),
    lambda m, x: F.linear(x, m.w[:4]) * F.linear(x, m.w[2:]),
    w=(6, 5),
)
use("functional-step-slice", (3, 5), lambda m, x: F.linear(x, m.w[::2]), w=(8, 5))
use("functional-input-slice", (3, 6, 5), lambda m, x: F.linear(x[..., :3], m.w[:, 2:]).mean(1), w=(4, 5))
use("matmul", (3, 5), lambda m, x: (x @ m.w).tanh() @ m.v + m.b, w=(5, 6), v=(6, 4), b=(4,))
use("matmul-positions", (3, 7, 5), lambda m, x: ((x @ m.w).tanh() @ m.v).mean(1), w=(5, 6), v=(6, 4))
use("matmul-from-the-left", (3, 5, 7), lambda m, x: (m.v @ (m.w @ x).tanh()).mean(2), w=(6, 5), v=(4, 6))
use("matmul-transposed", (3, 5), lambda m, x: (x @ m.w.t()).tanh() @ m.v.mT, w=(6, 5), v=(4, 6))
use("matmul-vector", (3, 6, 5), lambda m, x: m.head(x @ m.w), w=(5,), head=linear(6, 4), fallback=True)
use("addmm", (3, 5), lambda m, x: torch.addmm(m.b, x, m.w, beta=0.5, alpha=2.0), w=(5, 4), b=(4,))
use(
    "baddbmm",
    (3, 6, 5),
    lambda m, x: torch.baddbmm(m.b, x, m.w.expand(len(x), 5, 4)).mean(1),
    w=(5, 4),
    b=(4,),
    fallback=True,
)
use("product-of-weights", (3, 5), lambda m, x: F.linear(x, m.a @ m.b), a=(4, 6), b=(6, 5), fallback=True)
use(
    "low-rank-adapter",
    (3, 6, 5),
    lambda m, x: (m.base(x) + 0.5 * m.up(m.down(x))).tanh().mean(1),
    base=linear(5, 4),
    down=linear(5, 2, bias=False),
    up=linear(2, 4, bias=False),
)
use("masked-weight", (3, 5), lambda m, x: F.linear(x, m.w * (m.w.detach() > 0)), w=(4, 5), fallback=True)
use(
    "standardised-weight",
    (3, 3, 5, 5),
    lambda m, x: F.conv2d(x, F.layer_norm(m.w, m.w.shape[1:])).tanh().mean((2, 3)),
    w=(4, 3, 3, 3),
    fallback=True,
)
use(
    "flipped-kernel",
    (3, 2, 5, 5),
    lambda m, x: F.conv2d(x, m.w.flip(3)).mean((2, 3)),
    w=(4, 2, 3, 3),
    fallback=True,
)
use(
    "joined-weights",
    (3, 5),
    lambda m, x: F.linear(x, torch.cat([m.a, m.b])),
    a=(1, 5),
    b=(3, 5),
    fallback=True,
)
use("einsum", (3, 6, 5), lambda m, x: torch.einsum("btd,od->bo", x, m.w).tanh(), w=(4, 5))
use(
    "einsum-heads",
    (3, 6, 5),
    lambda m, x: torch.einsum("btd,hdo->bo", x, m.w).tanh(),
    w=(2, 5, 4),
    fallback=True,
)
use(
    "cosine-head",
    (3, 5),
    lambda m, x: 3 * F.linear(F.normalize(x), F.normalize(m.w)),
    w=(4, 5),
    fallback=True,
)
use(
    "functional-norms",
    (3, 6),
    lambda m, x: m.head(F.layer_norm(x, (6,), m.w, m.b)),
    w=(6,),
    b=(6,),
    head=linear(6, 4),
)
use("functional-prelu", (3, 6), lambda m, x: m.head(F.prelu(x, m.w)), w=(1,), head=linear(6, 4))
use_tokens(
    "functional-embedding",
    (3, 6),
    lambda m, x: m.head(F.embedding(x, m.w).mean(1)),
    w=(7, 5),
    head=linear(5, 4),
)
use_tokens(
    "indexed-table", (3, 6), lambda m, x: m.head(m.w[x].mean(1)), w=(7, 5), head=linear(5, 4), fallback=True
)
use_tokens("one-hot-matmul", (3, 6), lambda m, x: (F.one_hot(x, 7).to(m.w) @ m.w).tanh().mean(1), w=(7, 4))

# Parameters that are no layer's: exact by the fallback where no rule knows them
use(
    "class-token",
    (3, 4, 5),
    lambda m, x: m.head(m.a(torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)).tanh().mean(1)),
    token=(1, 1, 5),
    a=linear(5, 5),
    head=linear(5, 4),
    fallback=True,
)
use(
    "position-table",
    (3, 4, 5),
    lambda m, x: m.head(m.a(x + m.table[:, : x.shape[1]]).tanh().mean(1)),
    table=(1, 6, 5),
    a=linear(5, 5),
    head=linear(5, 4),
    fallback=True,
)
use_tokens(
    "position-embedding",
    (3, 6),
    lambda m, x: m.head((m.e(x) + m.positions(torch.arange(6, device=x.device))).tanh().mean(1)),
    e=embedding,
    positions=lambda: nn.Embedding(8, 5),
    head=linear(5, 4),
    fallback=True,
)
use(
    "layer-scale",
    (3, 4, 5),
    lambda m, x: m.head((x + m.gamma * m.a(x).tanh()).mean(1)),
    gamma=(5,),
    a=linear(5, 5),
    head=linear(5, 4),
    fallback=True,
)
use(
    "layer-scale-image",
    (3, 5, 3, 4),
    lambda m, x: m.head((x + m.gamma * m.a(x).tanh()).mean((2, 3))),
    gamma=(5, 1, 1),
    a=conv(5, 5, 1),
    head=linear(5, 4),
    fallback=True,
)
use(
    "temperature",
    (3, 5),
    lambda m, x: m.head(x) * m.scale.exp(),
    scale=(1,),
    head=linear(5, 4),
    fallback=True,
)
use(
    "bias-on-the-logits",
    (3, 5),
    lambda m, x: m.head(x) + m.b,
    b=(4,),
    head=linear(5, 4, bias=False),
    fallback=True,
)
use(
    "relative-position-bias",
    (3, 4, 5),
    lambda m, x: m.head(((m.q(x) @ x.mT + m.table[distances(4)]).softmax(-1) @ x).mean(1)),
    table=(7,),
    q=linear(5, 5),
    head=linear(5, 4),
    fallback=True,
)


def distances(n: int) -> Tensor:
    return torch.arange(n)[:, None] - torch.arange(n)[None, :] + n - 1


for name, parametrisation in {
    "weight-norm": parametrizations.weight_norm,
    "spectral-norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}.items():
    use(
        f"{name}-linear",
        (3, 6, 5),
        lambda m, x: m.head(m.a(x).tanh().mean(1)),
        a=lambda p=parametrisation: p(nn.Linear(5, 5)),
        head=linear(5, 4),
        fallback=True,
    )
use(
    "weight-norm-convolution",
    (3, 2, 5, 5),
    lambda m, x: m.head(m.a(x).tanh().mean((2, 3))),
    a=lambda: parametrizations.weight_norm(nn.Conv2d(2, 5, 3)),
    head=linear(5, 4),
    fallback=True,
)

# In-place operations and residuals
use(
    "in-place-relu",
    (3, 3, 6, 6),
    lambda m, x: m.head(F.relu_(m.b(F.relu_(m.bn(m.a(x))))).mean((2, 3))),
    a=conv(3, 4),
    bn=lambda: nn.BatchNorm2d(4),
    b=conv(4, 5),
    head=linear(5, 4),
)


def residual_in_place(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(h.relu())
    y += h
    y.mul_(0.5).add_(1.0)
    return m.head(y.relu_().mean((2, 3)))


use(
    "in-place-residual",
    (3, 3, 6, 6),
    residual_in_place,
    a=conv(3, 4),
    b=conv(4, 4, padding=1),
    head=linear(4, 4),
)


def write_into_views(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    h[:, 1:3] += m.b(x)[:, :2]
    h[:, 0] = x[:, 0]
    out = torch.zeros_like(h)
    out[:, :3] = h[:, 3:]
    return m.head((out + h).tanh())


use("in-place-views", (3, 5), write_into_views, a=linear(5, 6), b=linear(5, 6), head=linear(6, 4))
use(
    "masked-fill",
    (3, 6, 5),
    lambda m, x: m.head(m.a(x).masked_fill_(x[..., :1] > 0, -1.0).amax(1)),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "dense-connections",
    (3, 3, 6, 6),
    lambda m, x: m.head(torch.cat([x, m.a(x), m.b(torch.cat([x, m.a(x)], 1).relu())], 1).mean((2, 3))),
    a=conv(3, 2, padding=1),
    b=conv(5, 2, padding=1),
    head=linear(7, 4),
)

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
    fallback=True,
)
use(
    "batch-last",
    (3, 6, 5),
    lambda m, x: m.head((m.w @ x.permute(1, 2, 0)).tanh().mean(0).t()),
    w=(5, 5),
    head=linear(5, 4),
    fallback=True,
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
