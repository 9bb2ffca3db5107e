"""A case: a seeded model in eval mode and an input batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradfast.inputs import Inputs, map_tensors

Build = Callable[[], tuple[nn.Module, Inputs]]


@dataclass(frozen=True)
class Case:
    """One model of the zoo.

    Attributes:
        name: the test's id.
        construct: makes the model and its input; called under a seed of its own.
        fallback: whether parameters of the model may take the per-sample fallback.
    """

    name: str
    construct: Build
    fallback: bool = False

    def build(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Inputs]:
        """The model in eval mode and its input, always the same, cast to ``dtype``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model, x = self.construct()
            randomise(model)
        return model.eval().to(dtype), map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, x)


class Registry(dict[str, Case]):
    """Cases by name; `add` is a decorator for a function that builds one."""

    def add(self, name: str, fallback: bool = False) -> Callable[[Build], Build]:
        def register(build: Build) -> Build:
            self.put(name, build, fallback)
            return build

        return register

    def put(self, name: str, build: Build, fallback: bool = False) -> None:
        assert name not in self, f"two cases are called {name}"
        self[name] = Case(name, build, fallback)


def randomise(model: nn.Module) -> None:
    """Moves running statistics and constant parameters (norm gains of one, biases of zero) off their defaults."""
    for module in model.modules():
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if mean is not None and var is not None:
            mean.normal_(0, 0.3)
            var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.eq(parameter.flatten()[0]).all():
                parameter.add_(0.3 * torch.randn_like(parameter))


class Function(nn.Module):
    """A model given as a function of its named parts (modules and parameters) and of the inputs."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if type(part) is Tensor else part)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.function(self, *args, **kwargs)


def classifier(layer: nn.Module, x: Tensor, classes: int = 4, mix: bool = True) -> nn.Module:
    """``layer`` between a layer that mixes its channels (so that its input has a gradient) and a linear head."""
    before: nn.Module = nn.Identity()
    if mix and x.dim() <= 3 and not isinstance(layer, _CHANNELS_FIRST):
        before = nn.Linear(x.shape[-1], x.shape[-1])
    elif mix:
        conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
        before = (
            nn.Linear(x.shape[1], x.shape[1]) if x.dim() == 2 else conv[x.dim()](x.shape[1], x.shape[1], 1)
        )
    with torch.no_grad():
        shape = layer.eval()(before(x)).shape
    return nn.Sequential(before, layer, nn.Tanh(), nn.Flatten(), nn.Linear(shape[1:].numel(), classes))


_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.PReLU,
)
