"""Random models: chains of layers, reshapes and reuses that nobody thought of, against plain autograd in float64."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.base import randomise

from gradfast import reference

pytestmark = pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")

T, D = 4, 6  # a sequence [B, T, D], seen as an image [B, D, 2, 2] by the convolutions


class Model(nn.Module):
    """Steps on a sequence [B, T, D], drawn one after the other; layers may be drawn again and are then reused."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.tables = nn.ParameterDict()
        self.plan: list[tuple[str, str]] = []
        for _ in range(draw(st.integers(1, 6))):
            step = draw(st.sampled_from(sorted(STEPS)))
            self.plan.append((step, draw(st.sampled_from("ab"))))
            STEPS[step](self, self.plan[-1][1], None)
        self.head = nn.Linear(D, 4)
        self.pool = draw(st.sampled_from(["mean", "last", "max", "flat-sum"]))

    def layer(self, kind: str, which: str, make: Callable[[], nn.Module]) -> nn.Module:
        name = f"{kind}_{which}"
        if name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def table(self, kind: str, which: str, *shape: int) -> Tensor:
        name = f"{kind}_{which}"
        if name not in self.tables:
            self.tables[name] = nn.Parameter(torch.randn(shape) / 2)
        return self.tables[name]

    def forward(self, x: Tensor) -> Tensor:
        for step, which in self.plan:
            x = STEPS[step](self, which, x)
        if self.pool == "mean":
            return self.head(x.mean(1))
        if self.pool == "last":
            return self.head(x[:, -1])
        if self.pool == "max":
            return self.head(x.amax(1))
        return self.head(x.reshape(-1, D)).view(len(x), T, 4).sum(1)


def step(
    make: Callable[[Model, str], nn.Module | Tensor], use: Callable[..., Tensor]
) -> Callable[..., Tensor | None]:
    """A step that makes its layer when it is drawn (no input yet) and uses it in the forward pass."""

    def run(model: Model, which: str, x: Tensor | None) -> Tensor | None:
        part = make(model, which)
        return None if x is None else use(part, x)

    return run


def linear(m: Model, which: str) -> nn.Module:
    return m.layer("linear", which, lambda: nn.Linear(D, D))


def conv(m: Model, which: str) -> nn.Module:
    return m.layer("conv", which, lambda: nn.Conv2d(D, D, 3, padding=1))


def image(x: Tensor) -> Tensor:
    return x.mT.reshape(-1, D, 2, 2)


def sequence(x: Tensor) -> Tensor:
    return x.flatten(2).mT


STEPS: dict[str, Callable[..., Tensor | None]] = {
    "linear": step(linear, lambda f, x: f(x).tanh()),
    "linear-residual": step(linear, lambda f, x: x + 0.5 * f(x)),
    "linear-in-place": step(linear, lambda f, x: f(x).mul_(0.5).add_(x).relu_()),
    "linear-folded": step(linear, lambda f, x: f(x.reshape(-1, D)).sigmoid().view_as(x)),
    "linear-sequence-first": step(linear, lambda f, x: f(x.transpose(0, 1)).tanh().transpose(0, 1)),
    "linear-sequence-first-folded": step(
        linear, lambda f, x: f(x.transpose(0, 1).reshape(-1, D)).tanh().view(T, -1, D).transpose(0, 1)
    ),
    "linear-some-positions": step(linear, lambda f, x: torch.cat([f(x[:, :1]), x[:, 1:]], 1)),
    "linear-windows": step(linear, lambda f, x: F.gelu(f(x.reshape(-1, 2, D))).view_as(x)),
    "linear-transposed": step(linear, lambda f, x: (x @ f.weight).tanh() + f.bias),
    "linear-half": step(linear, lambda f, x: torch.cat([F.linear(x, f.weight[:3]), x[..., 3:]], -1).tanh()),
    "linear-gate": step(linear, lambda f, x: x * f(x.mean(1, keepdim=True)).sigmoid()),
    "left-product": step(lambda m, k: m.table("left", k, T, T), lambda w, x: w @ x),
    "conv": step(conv, lambda f, x: sequence(f(image(x)).tanh())),
    "conv-channels-last": step(conv, lambda f, x: sequence(F.silu(f(image(x).to(memory_format=torch.channels_last))))),
    "conv-frames": step(conv, lambda f, x: f(x.reshape(-1, D, 1, 1)).relu().view_as(x)),
    "depthwise": step(lambda m, k: m.layer("deep", k, lambda: nn.Conv2d(D, D, 3, padding=1, groups=D)), lambda f, x: sequence(f(image(x)))),
    "grouped-1d": step(lambda m, k: m.layer("one", k, lambda: nn.Conv1d(D, D, 3, padding="same", groups=2, padding_mode="circular")),
        lambda f, x: F.elu(f(x.mT)).mT),
    "up-and-down": step(lambda m, k: m.layer("up", k, lambda: nn.ConvTranspose2d(D, D, 2, stride=2)), lambda f, x: sequence(F.max_pool2d(f(image(x)), 2))),
    "batch-norm": step(lambda m, k: m.layer("bn", k, lambda: nn.BatchNorm1d(D)), lambda f, x: f(x.mT).mT),
    "layer-norm": step(lambda m, k: m.layer("ln", k, lambda: nn.LayerNorm(D)), lambda f, x: f(x)),
    "rms-norm-sequence-first": step(lambda m, k: m.layer("rms", k, lambda: nn.RMSNorm(D)), lambda f, x: f(x.transpose(0, 1)).transpose(0, 1)),
    "group-norm": step(lambda m, k: m.layer("gn", k, lambda: nn.GroupNorm(2, D)), lambda f, x: sequence(f(image(x)))),
    "attention": step(lambda m, k: m.layer("attend", k, lambda: nn.MultiheadAttention(D, 2, batch_first=True)),
        lambda f, x: x + f(x, x, x, need_weights=False)[0]),
    "prelu": step(lambda m, k: m.layer("prelu", k, lambda: nn.PReLU(D)), lambda f, x: f(x.mT).mT),
    "scale": step(lambda m, k: m.table("scale", k, D), lambda w, x: x * w),
    "positions": step(lambda m, k: m.table("positions", k, T, D), lambda w, x: x + w),
    "roll": step(lambda m, k: m.table("nothing", "a", 1), lambda w, x: x.roll(1, 1).flip(2) + w),
    "softmax-over-positions": step(lambda m, k: m.table("nothing", "a", 1), lambda w, x: (w * x).softmax(1) * x),
}  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 1000)))
        model = Model(draw)
        randomise(model)
    return model.double().eval()


# `make fuzz` looks for new models, all night if told to; the tests look at the same ones each time.
FUZZ = int(os.environ.get("GRADFAST_FUZZ", "0"))


@settings(
    max_examples=FUZZ or 120,
    derandomize=not FUZZ,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(model=models(), b=st.integers(1, 5), layers=st.sampled_from([None, "head", "layers"]))
def test_random_model(api: ModuleType, model: Model, b: int, layers: str | None) -> None:
    if layers == "layers" and not len(model.layers):
        layers = None
    x = torch.randn(b, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(b))
    truth = reference.grad_norms(model, x, layers=layers, classes=[1, 3])
    result = api.grad_norms(model, x, layers=layers, classes=[1, 3])
    assert result.layers == truth.layers
    assert_close(result.values, truth.values, truth.layers, 1e-9)
