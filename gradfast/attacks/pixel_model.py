"""A classifier as an attacker sees it: from pixels in [0, 1], and with nothing of it changed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradfast.errors import InputError, describe

__all__ = ["frozen", "on_pixels"]


class _OnPixels(nn.Module):
    """Normalises, then classifies."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x - self.mean) / self.std)
        return logits


def on_pixels(
    model: nn.Module, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
) -> nn.Module:
    """The model with its normalisation in front, so that it takes images in [0, 1].

    Args:
        model: takes normalised images [B, C, H, W]; it is shared, not copied.
        mean: subtracted; one number or one per channel. None: 0.
        std: what the difference is divided by. None: 1.

    Raises:
        InputError: not a module, not finite numbers, or a standard deviation that is not positive.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: got {describe(model)}; wanted a torch.nn.Module")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    shift, scale = _per_channel("mean", mean, 0.0), _per_channel("std", std, 1.0)
    if bool((scale <= 0).any()):
        raise InputError(f"std: got {describe(std)}; wanted positive numbers")
    return _OnPixels(model, shift.to(device), scale.to(device))


def _per_channel(name: str, value: float | Sequence[float] | None, default: float) -> Tensor:
    try:
        numbers = torch.tensor(default if value is None else value, dtype=torch.float32).reshape(-1, 1, 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {describe(value)}; wanted a number or one per channel") from error
    if not bool(numbers.isfinite().all()):
        raise InputError(f"{name}: got {describe(value)}; wanted finite numbers")
    return numbers


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode, and no gradient to any parameter; afterwards each module's mode and each parameter's flag are restored."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
