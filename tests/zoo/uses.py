"""Ways to use a parameter that modules do not show: tied, reused, functional, sliced, computed, in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

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
use("product-of-weights", (3, 5), lambda m, x: F.linear(x, m.a @ m.b), a=(4, 6), b=(6, 5))
use(
    "low-rank-adapter",
    (3, 6, 5),
    lambda m, x: (m.base(x) + 0.5 * m.up(m.down(x))).tanh().mean(1),
    base=linear(5, 4),
    down=linear(5, 2, bias=False),
    up=linear(2, 4, bias=False),
)
use("masked-weight", (3, 5), lambda m, x: F.linear(x, m.w * (m.w.detach() > 0)), w=(4, 5))
use(
    "standardised-weight",
    (3, 3, 5, 5),
    lambda m, x: F.conv2d(x, F.layer_norm(m.w, m.w.shape[1:])).tanh().mean((2, 3)),
    w=(4, 3, 3, 3),
)
use(
    "flipped-kernel",
    (3, 2, 5, 5),
    lambda m, x: F.conv2d(x, m.w.flip(3)).mean((2, 3)),
    w=(4, 2, 3, 3),
)
use(
    "joined-weights",
    (3, 5),
    lambda m, x: F.linear(x, torch.cat([m.a, m.b])),
    a=(1, 5),
    b=(3, 5),
)
use("einsum", (3, 6, 5), lambda m, x: torch.einsum("btd,od->bo", x, m.w).tanh(), w=(4, 5))
use(
    "einsum-heads",
    (3, 6, 5),
    lambda m, x: torch.einsum("btd,hdo->bo", x, m.w).tanh(),
    w=(2, 5, 4),
)
use(
    "cosine-head",
    (3, 5),
    lambda m, x: 3 * F.linear(F.normalize(x), F.normalize(m.w)),
    w=(4, 5),
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

# Parameters that are no layer's
use(
    "class-token",
    (3, 4, 5),
    lambda m, x: m.head(m.a(torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)).tanh().mean(1)),
    token=(1, 1, 5),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "position-table",
    (3, 4, 5),
    lambda m, x: m.head(m.a(x + m.table[:, : x.shape[1]]).tanh().mean(1)),
    table=(1, 6, 5),
    a=linear(5, 5),
    head=linear(5, 4),
)
use_tokens(
    "position-embedding",
    (3, 6),
    lambda m, x: m.head((m.e(x) + m.positions(torch.arange(6, device=x.device))).tanh().mean(1)),
    e=embedding,
    positions=lambda: nn.Embedding(8, 5),
    head=linear(5, 4),
)
use(
    "layer-scale",
    (3, 4, 5),
    lambda m, x: m.head((x + m.gamma * m.a(x).tanh()).mean(1)),
    gamma=(5,),
    a=linear(5, 5),
    head=linear(5, 4),
)
use(
    "layer-scale-image",
    (3, 5, 3, 4),
    lambda m, x: m.head((x + m.gamma * m.a(x).tanh()).mean((2, 3))),
    gamma=(5, 1, 1),
    a=conv(5, 5, 1),
    head=linear(5, 4),
)
use(
    "temperature",
    (3, 5),
    lambda m, x: m.head(x) * m.scale.exp(),
    scale=(1,),
    head=linear(5, 4),
)
use(
    "bias-on-the-logits",
    (3, 5),
    lambda m, x: m.head(x) + m.b,
    b=(4,),
    head=linear(5, 4, bias=False),
)
use(
    "relative-position-bias",
    (3, 4, 5),
    lambda m, x: m.head(((m.q(x) @ x.mT + m.table[distances(4)]).softmax(-1) @ x).mean(1)),
    table=(7,),
    q=linear(5, 5),
    head=linear(5, 4),
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
    )
use(
    "weight-norm-convolution",
    (3, 2, 5, 5),
    lambda m, x: m.head(m.a(x).tanh().mean((2, 3))),
    a=lambda: parametrizations.weight_norm(nn.Conv2d(2, 5, 3)),
    head=linear(5, 4),
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
