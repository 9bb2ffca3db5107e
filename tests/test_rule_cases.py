"""Rules where they once lost, mistook or rounded away a cotangent: norms and products against autograd, one sample and three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from torch import Tensor, nn
from zoo.base import Function, randomise

import gradfast
from gradfast import reference
from gradfast.errors import ModelError
from gradfast.inputs import Inputs, map_tensors
from gradfast.rules import Rule, rule_for

pytestmark = pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")

Make = Callable[[], tuple[nn.Module, Inputs]]
CASES: dict[str, Make] = {}

L = nn.Linear


def case(name: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES[name] = make
        return make

    return add


def use(name: str, x: Callable[[], Inputs], forward: Callable[..., Tensor], **parts: Any) -> None:
    """``forward(m, x)`` of inputs with three samples; parts are modules' makers or parameters' makers."""
    CASES[name] = lambda: (Function(forward, **{k: make() for k, make in parts.items()}), x())


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape, dtype=dtype)


def tokens(*shape: int, below: int = 7, dtype: torch.dtype = torch.int64) -> Callable[[], Tensor]:
    return lambda: torch.randint(below, shape).to(dtype)


def linear(d: int, o: int) -> Callable[[], nn.Module]:
    return lambda: L(d, o)


def by_complex(t: Tensor) -> Tensor:
    return torch.view_as_complex(t.contiguous())


def neighbours(m: Any, x: Tensor) -> Tensor:
    """Each node of a ring of eight takes its neighbour's features in, by a sparse adjacency matrix; nodes first."""
    ring = (torch.eye(8) + torch.eye(8).roll(1, 0)).to(x.dtype).to_sparse()
    h = m.a(x).transpose(0, 1).flatten(1)
    return m.head((ring @ h).view(8, len(x), 5).transpose(0, 1).tanh().mean(1))


use("sparse-adjacency", normal(3, 8, 5), neighbours, a=linear(5, 5), head=linear(5, 4))


# Complex intermediates
use(
    "rotary-complex",
    normal(3, 5),
    lambda m, x: m.head(
        torch.view_as_real(
            by_complex(m.b(m.a(x).tanh()).view(-1, 3, 2))
            * torch.polar(torch.ones(3), torch.arange(3.0)).to(torch.cdouble)
        ).flatten(1)
    ),
    a=linear(5, 6),
    b=linear(6, 6),
    head=linear(6, 4),
)
use(
    "global-filter",
    normal(3, 6, 5),
    lambda m, x: m.head(
        torch.fft.irfft(torch.fft.rfft(m.a(x), dim=1) * by_complex(m.w), n=6, dim=1).tanh().mean(1)
    ),
    a=linear(5, 6),
    w=normal(4, 6, 2),
    head=linear(6, 4),
)
use(
    "shared-filter",
    normal(3, 6, 5),
    lambda m, x: m.head(
        torch.fft.irfft(torch.fft.rfft(m.a(x), dim=1) * by_complex(m.w), n=6, dim=1).tanh().mean(1)
    ),
    a=linear(5, 6),
    w=normal(6, 2),
    head=linear(6, 4),
)
use(
    "fourier-operator",
    normal(3, 5, 5),
    lambda m, x: m.head(
        torch.fft.irfft(
            torch.einsum("bti,tio->bto", torch.fft.rfft(m.a(x), dim=1), by_complex(m.w)), dim=1, n=5
        )
        .tanh()
        .mean(1)
    ),
    a=linear(5, 6),
    w=normal(3, 6, 6, 2),
    head=linear(6, 4),
)
use(
    "complex-product",
    normal(3, 4, 6),
    lambda m, x: m.head(
        torch.view_as_real((by_complex(m.a(x).unflatten(2, (3, 2))) @ by_complex(m.w)).tanh())
        .mean(1)
        .flatten(1)
    ),
    a=linear(6, 6),
    w=normal(3, 3, 2),
    head=linear(6, 4),
)
use(
    "complex-quotient",
    normal(3, 6),
    lambda m, x: m.head(
        torch.view_as_real(by_complex(m.w) / (by_complex(m.a(x).unflatten(1, (3, 2))) + 4)).flatten(1)
    ),
    a=linear(6, 6),
    w=normal(3, 2),
    head=linear(6, 4),
)
use(
    "complex-alpha",
    normal(3, 6),
    lambda m, x: m.head(
        torch.view_as_real(
            torch.add(by_complex(m.a(x).unflatten(1, (3, 2))), by_complex(m.b(x).unflatten(1, (3, 2))).tanh(), alpha=2j)
        ).flatten(1).tanh()
    ),
    a=linear(6, 6),
    b=linear(6, 6),
    head=linear(6, 4),
)  # fmt: skip
use(
    "real-parameters-among-complex",
    normal(3, 6),
    lambda m, x: m.head(
        torch.view_as_real(
            (by_complex(m.a(x).unflatten(1, (3, 2))) * m.w + m.b) @ m.v.to(torch.cdouble) / m.d
        )
        .flatten(1)
        .tanh()
    ),
    a=linear(6, 6),
    w=normal(3),
    b=normal(3),
    v=normal(3, 3),
    d=normal(),
    head=linear(6, 4),
)
use(
    "complex-input",
    normal(3, 5, dtype=torch.complex128),
    lambda m, x: m.head((x * m.a(x.abs())).tanh().abs()),
    a=linear(5, 5),
    head=linear(5, 4),
)

# Cotangents of operands other than the first
use(
    "layer-norm-sample-by-sample",
    normal(3, 5),
    lambda m, x: m.head(torch.stack([m.ln(m.a(xi)).tanh() for xi in x])),
    a=linear(5, 5),
    ln=lambda: nn.LayerNorm(5),
    head=linear(5, 4),
)
use(
    "layer-norm-of-queries",
    normal(3, 4, 5),
    lambda m, x: m.head((x + m.ln(m.q)).tanh().mean(1)),
    q=normal(4, 5),
    ln=lambda: nn.LayerNorm(5),
    head=linear(5, 4),
)
use(
    "layer-norm-of-the-sample",
    normal(3, 5),
    lambda m, x: m.head(
        torch.stack([F.layer_norm(m.a(xi), (5,), m.w(xi), m.b(xi)).tanh() for xi in x])
    ),
    a=linear(5, 5),
    w=linear(5, 5),
    b=linear(5, 5),
    head=linear(5, 4),
)  # fmt: skip


def conditional_convolution(m: nn.Module, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    kernels = (m.route(x.mean((2, 3))).sigmoid() @ m.w.flatten(1)).view(b * c, c, 3, 3)
    y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
    return m.head(y.view(b, c, h, w).relu().mean((2, 3)))


use(
    "conditional-convolution",
    normal(3, 4, 6, 6),
    conditional_convolution,
    route=linear(4, 3),
    w=normal(3, 4, 4, 3, 3),
    head=linear(4, 3),
)


def kernel_of_the_sample(m: nn.Module, x: Tensor) -> Tensor:
    """Plain 3x3 convolutions of many channels, one sample each: the shape that has a joint kernel."""
    kernels = m.k(x.mean((2, 3))).view(-1, 16, 16, 3, 3)
    h = m.c(x)
    return m.head(
        torch.cat([F.conv2d(a[None], k, padding=1) for a, k in zip(h, kernels, strict=True)])
        .tanh()
        .mean((2, 3))
    )


use(
    "kernel-of-the-sample",
    normal(3, 3, 8, 8),
    kernel_of_the_sample,
    c=lambda: nn.Conv2d(3, 16, 3, padding=1).to(memory_format=torch.channels_last),
    k=linear(3, 16 * 16 * 9),
    head=linear(16, 3),
)
use(
    "siamese-correlation",
    normal(3, 3, 8, 8),
    lambda m, x: m.head(
        torch.cat([F.conv2d(m.c(a[None]), m.c(a[None, :, 2:6, 2:6])).tanh().flatten(1) for a in x])
    ),
    c=lambda: nn.Conv2d(3, 4, 3),
    head=linear(25, 3),
)
use(
    "bytes",
    tokens(3, 3, 6, 6, below=255, dtype=torch.uint8),
    lambda m, x: m.head(m.c(x.double() / 255).relu().mean((2, 3))),
    c=lambda: nn.Conv2d(3, 8, 3),
    head=linear(8, 4),
)
use(
    "convolution-of-learned",
    normal(3, 4),
    lambda m, x: m.head(x * m.bn(m.c(m.q)).relu().mean((0, 2, 3))),
    q=normal(2, 3, 6, 6),
    c=lambda: nn.Conv2d(3, 4, 3),
    bn=lambda: nn.BatchNorm2d(4),
    head=linear(4, 3),
)


def conditional_batch_norm(m: nn.Module, x: Tensor) -> Tensor:
    h = m.c(x)
    b, c = h.shape[:2]
    w, t = m.style(x.mean((2, 3))).chunk(2, 1)
    mean, var = torch.zeros(b * c, dtype=x.dtype), torch.ones(b * c, dtype=x.dtype)
    y = F.batch_norm(h.reshape(1, b * c, *h.shape[2:]), mean, var, w.reshape(-1), t.reshape(-1))
    return m.head(y.view_as(h).relu().mean((2, 3)))


use(
    "conditional-batch-norm",
    normal(3, 3, 6, 6),
    conditional_batch_norm,
    c=lambda: nn.Conv2d(3, 4, 3),
    style=linear(3, 8),
    head=linear(4, 3),
)
use(
    "conditional-batch-norm-of-points",  # laid out as fused steps read it
    normal(3, 3, 1, 1),
    conditional_batch_norm,
    c=lambda: nn.Conv2d(3, 4, 1),
    style=linear(3, 8),
    head=linear(4, 3),
)
use(
    "bag-scaled-by-frequency",
    tokens(3, 9),
    lambda m, x: m.head(m.e(x)),
    e=lambda: nn.EmbeddingBag(7, 5, scale_grad_by_freq=True, mode="sum"),
    head=linear(5, 4),
)


def table_of_the_input(m: nn.Module, x: Tensor) -> Tensor:
    bags = torch.arange(4).view(2, 2)
    rows = [
        F.embedding_bag(bags, m.a(t).tanh(), per_sample_weights=m.w[bags], mode="sum").flatten() for t in x
    ]
    return m.head(torch.stack(rows))


use(
    "table-of-the-input", normal(3, 4, 5), table_of_the_input, a=linear(5, 5), w=normal(4), head=linear(10, 4)
)
use(
    "bag-of-learned-table",
    normal(3, 5),
    lambda m, x: m.head(x * F.embedding_bag(torch.arange(6).view(1, 6), m.a(m.t).tanh())),
    t=normal(6, 5),
    a=linear(5, 5),
    head=linear(5, 4),
)


class Switch(torch.autograd.Function):
    """Arguments that are no tensors before one that is, and an output that nothing uses."""

    @staticmethod
    def forward(ctx: Any, mode: str, x: Tensor, number: int, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + 2 * y, 3 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[None, Tensor, None, Tensor]:
        return None, g + 3 * h, None, 2 * g


use(
    "own-function",
    normal(3, 5),
    lambda m, x: m.head(Switch.apply("sum", m.a(x), 3, m.b(x))[0].tanh()),
    a=linear(5, 5),
    b=linear(5, 5),
    head=linear(5, 4),
)
use(
    "own-function-of-a-constant",
    normal(3, 5),
    lambda m, x: m.head(Switch.apply("sum", torch.ones(5, dtype=x.dtype), 3, m.b(x))[0].tanh()),
    b=linear(5, 5),
    head=linear(5, 4),
)
use(
    "distances-to-prototypes",
    normal(3, 5),
    lambda m, x: -torch.cdist(m.a(x), m.c),
    a=linear(5, 5),
    c=normal(6, 5),
)
use(
    "repeated-batch-norm-weight",
    normal(3, 4, 2),
    lambda m, x: m.head(
        F.batch_norm(x, x.new_zeros(4), x.new_ones(4), m.w.repeat(2), m.b.repeat(2)).flatten(1)
    ),
    w=normal(2),
    b=normal(2),
    head=linear(8, 3),
)
use(
    "folded-batch-norm-weight",  # repeated twice for each sample
    normal(3, 4, 2),
    lambda m, x: m.head(
        F.batch_norm(
            x.view(1, -1, 2), None, None, m.w.repeat(2 * len(x)), m.b.repeat(2 * len(x)), training=True
        ).view(len(x), -1)
    ),
    w=normal(2),
    b=normal(2),
    head=linear(8, 3),
)
use(
    "tracking-instance-norm-of-points",
    normal(3, 3, 1, 1),
    lambda m, x: m.head(m.n(m.c(x)).relu().flatten(1)),
    c=lambda: nn.Conv2d(3, 4, 1),
    n=lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    head=linear(4, 3),
)

use(
    "scattered-view",
    normal(3, 5),
    lambda m, x: m.head(torch.stack([m.a(xi).as_strided_scatter(m.w, (2,), (2,), 1).tanh() for xi in x])),
    a=linear(5, 5),
    w=normal(2),
    head=linear(5, 4),
)

# Single numbers
for name, act in {
    "exp": torch.exp,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "clamp": lambda t: t.clamp(max=5),
}.items():
    use(
        f"temperature-{name}",
        normal(3, 5),
        lambda m, x, act=act: m.head(x) * act(m.t),
        t=lambda: torch.tensor(0.3, dtype=torch.float64),
        head=linear(5, 4),
    )
use(
    "number-of-the-sample",
    normal(3, 5),
    lambda m, x: m.head(torch.stack([xi * (m.w * xi.mean() + m.c) for xi in x])),
    w=normal(),
    c=normal(),
    head=linear(5, 4),
)
use(
    "softmax-of-a-number",
    normal(3, 5),
    lambda m, x: m.head(torch.stack([xi * m.w.exp().transpose(0, 0) * m.w.softmax(0) for xi in x])),
    w=normal(),
    head=linear(5, 4),
)
use(
    "short-indices",
    tokens(3, 6, dtype=torch.int32),
    lambda m, x: m.head(m.e(x).mean(1) + m.bag(x)),
    e=lambda: nn.Embedding(7, 5),
    bag=lambda: nn.EmbeddingBag(7, 5),
    head=linear(5, 4),
)


def grouped_queries(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (
        layer(x).unflatten(2, (heads, 2)).transpose(1, 2) for layer, heads in ((m.q, 4), (m.k, 2), (m.v, 2))
    )
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True)
    return m.head(y.transpose(1, 2).flatten(2).tanh().mean(1))


use(
    "grouped-query-attention",
    normal(3, 6, 5),
    grouped_queries,
    q=linear(5, 8),
    k=linear(5, 4),
    v=linear(5, 4),
    head=linear(8, 4),
)
use(
    "negative-divisor",
    normal(3, 3, 6, 6),
    lambda m, x: m.head(F.avg_pool2d(m.c(x).tanh(), 2, divisor_override=-3).flatten(1)),
    c=lambda: nn.Conv2d(3, 4, 3),
    head=linear(16, 3),
)


def build(name: str, batch: int) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    model, x = CASES[name]()
    randomise(model)
    return model.double().eval(), map_tensors(lambda t: t[:batch], x)


BATCHES = pytest.mark.parametrize("batch", [1, 3])


@BATCHES
@pytest.mark.parametrize("name", CASES)
def test_norms(name: str, batch: int) -> None:
    model, x = build(name, batch)
    truth = reference.grad_norms(model, x)
    assert_close(gradfast.grad_norms(model, x).values, truth.values, truth.layers, 1e-9)


@BATCHES
@pytest.mark.parametrize("name", CASES)
def test_dots_and_gram_matrices(name: str, batch: int) -> None:
    model, x = build(name, batch)
    some = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    norms = reference.grad_norms(model, x).values
    truth = reference.grad_dots(model, x, some)
    scale = (norms * torch.stack([some[n].square().sum() for n in truth.layers])).sqrt()
    assert_close(
        gradfast.grad_dots(model, x, some).values, truth.values, truth.layers, 1e-9, scale, noise=1e-5
    )
    grams = [api.grad_gram(model, x).values.flatten(2).mT for api in (gradfast, reference)]
    assert_close(
        grams[0], grams[1], truth.layers, 1e-9, grams[1].abs().amax(1, keepdim=True).expand_as(grams[1])
    )


@BATCHES
def test_complex_parameters_count_as_pairs_of_real_ones(batch: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)[:batch]
    w = torch.randn(6, dtype=torch.complex128)

    def model(**parts: Tensor) -> nn.Module:
        torch.manual_seed(0)
        return Function(
            lambda m, x: m.head((m.a(x) * (m.w if m.w.is_complex() else by_complex(m.w))).abs()),
            a=L(5, 6),
            head=L(6, 4),
            **parts,
        ).double()

    pairs, complex_ = model(w=torch.view_as_real(w)), model(w=w)
    some = {n: torch.randn_like(p) for n, p in complex_.named_parameters()}
    real = {**some, "w": torch.view_as_real(some["w"])}
    for api in (gradfast, reference):
        for got, truth in (
            (api.grad_norms(complex_, x), reference.grad_norms(pairs, x)),
            (api.grad_dots(complex_, x, some), reference.grad_dots(pairs, x, real)),
            (api.grad_gram(complex_, x), reference.grad_gram(pairs, x)),
        ):
            i = [got.layers.index(name) for name in truth.layers]
            values = got.values[:, i] if got.values.dim() == 4 else got.values[..., i]
            torch.testing.assert_close(values, truth.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"),
    [(torch.float32, 1e20, 1e-5), (torch.float32, 1e-25, 1e-5), (torch.float16, 1e3, 2e-2)],
)
@BATCHES
def test_quotients_of_large_and_of_small_numbers(
    dtype: torch.dtype, scale: float, tolerance: float, batch: int
) -> None:
    torch.manual_seed(0)
    model = Function(
        lambda m, x: m.head((m.a(x) * scale) / (m.c(x) * scale + 4 * scale)) + m.w * scale / (m.v * scale),
        a=L(5, 5),
        c=L(5, 5),
        head=L(5, 4),
        w=torch.rand(4) + 1,
        v=torch.rand(4) + 1,
    ).to(dtype)
    x = torch.randn(3, 5, dtype=dtype)[:batch]
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    assert_close(gradfast.grad_norms(model, x).values, truth.values, truth.layers, tolerance, noise=1e-4)


@BATCHES
def test_a_kernel_made_from_the_sample_where_a_joint_step_exists(batch: int) -> None:
    model, x = build("kernel-of-the-sample", batch)
    truth = reference.grad_norms(model, x)
    got = gradfast.grad_norms(model.float(), x.float().contiguous(memory_format=torch.channels_last))
    assert_close(got.values, truth.values, truth.layers, 1e-3)


class TooFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def test_a_backward_that_gives_too_few_gradients_is_refused() -> None:
    model = Function(lambda m, x: TooFew.apply(m.a(x), m.b(x)).tanh(), a=L(5, 4), b=L(5, 4))
    with pytest.raises(ModelError, match="the backward of TooFew gives 1 gradients for 2 arguments"):
        gradfast.grad_norms(model, torch.randn(3, 5))


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


@BATCHES
def test_a_gradient_that_autograd_says_is_zero_is_zero(batch: int) -> None:
    model = Function(lambda m, x: m.head(x * NoGradient.apply(m.w.exp())), w=torch.randn(5), head=L(5, 4))
    values = gradfast.grad_norms(model, torch.randn(3, 5)[:batch]).values
    assert values[..., 0].eq(0).all()
    assert values[..., 1:].gt(0).all()


def test_what_a_closed_form_leaves_out_is_taken_from_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule can lose a cotangent: without any closed form, all is as before."""
    model, x = build("kernel-of-the-sample", 2)
    truth = reference.grad_norms(model, x)
    for name in ("MulBackward0", "ConvolutionBackward0", "AddmmBackward0", "TanhBackward0", "ViewBackward0"):
        kind = type(rule_for(name))
        if "closed_form" in vars(kind):
            monkeypatch.setattr(kind, "closed_form", Rule.closed_form)
    assert_close(gradfast.grad_norms(model, x).values, truth.values, truth.layers, 1e-9)
