"""Steps of random models on a sequence [B, T, D]: layers, reshapes and reuses, drawn one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T, D = 4, 6  # a sequence [B, T, D], seen as an image [B, D, 2, 2] by the convolutions
POOLS = ("mean", "last", "max", "flat-sum")


class Model(nn.Module):
    """Takes (step, a or b) pairs: a step drawn again with the same letter reuses its layer."""

    def __init__(self, plan: Sequence[tuple[str, str]] = (), pool: str = "mean") -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.tables = nn.ParameterDict()
        self.plan: list[tuple[str, str]] = []
        for name, which in plan:
            self.add(name, which)
        self.head = nn.Linear(D, 4)
        self.pool = pool

    def add(self, name: str, which: str, at: int | None = None) -> None:
        """One more step, at the end or before the ``at``-th; its layer is made if it is not there."""
        self.plan.insert(len(self.plan) if at is None else at, (name, which))
        STEPS[name](self, which, None)

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
        for name, which in self.plan:
            out = STEPS[name](self, which, x)
            assert out is not None
            x = out
        if self.pool == "mean":
            return self.head(x.mean(1))
        if self.pool == "last":
            return self.head(x[:, -1])
        if self.pool == "max":
            return self.head(x.amax(1))
        return self.head(x.reshape(-1, D)).view(len(x), T, self.head.out_features).sum(1)


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
    "scale-permuted": step(lambda m, k: m.table("scale", k, D), lambda w, x: (x.permute(0, 1, 2) * w).tanh().permute(0, 1, 2)),
    "scale-sequence-first": step(lambda m, k: m.table("scale", k, D), lambda w, x: (x.permute(1, 0, 2) * w).tanh().permute(1, 0, 2)),
    "positions": step(lambda m, k: m.table("positions", k, T, D), lambda w, x: x + w),
    "roll": step(lambda m, k: m.table("nothing", "a", 1), lambda w, x: x.roll(1, 1).flip(2) + w),
    "softmax-over-positions": step(lambda m, k: m.table("nothing", "a", 1), lambda w, x: (w * x).softmax(1) * x),
}  # fmt: skip
