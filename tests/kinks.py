"""Samples whose activations lie on the same side of every kink in float32 as in float64.

A ReLU whose input is within rounding of zero passes its gradient in one precision and blocks it in the other. Both
are right, and the norms differ by far more than rounding: such a sample says nothing about the arithmetic. Among a
half million activations, as in ResNet-56, every second sample has one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

KINKS = {
    "relu": (0.0,),
    "relu_": (0.0,),
    "leaky_relu": (0.0,),
    "relu6": (0.0, 6.0),
    "hardtanh": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
    "hardsigmoid": (-3.0, 3.0),
}


class Sides(TorchFunctionMode):
    """Records, for each activation with kinks, which side its inputs are on, and which input each maximum takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in KINKS:
            x = args[0].detach()
            self.seen.append(sum((x > kink).long() for kink in KINKS[name]))
        if name == "boolean_dispatch" or "max_pool2d" in name:
            options = dict(kwargs, return_indices=True)
            self.seen.append(F.max_pool2d(*args, **options)[1])
        return func(*args, **kwargs)


def sides(model: nn.Module, x: Tensor) -> Tensor:
    """One row of codes per sample; what does not come with the batch (a table's MLP) counts for every sample."""
    with torch.no_grad(), Sides() as recorder:
        model(x)
    b = len(x)
    rows = [
        s.reshape(b, -1) if s.shape[0] % b == 0 else s.reshape(1, -1).expand(b, -1) for s in recorder.seen
    ]
    return torch.cat([torch.zeros(b, 1, dtype=torch.int64), *rows], 1)


def settled(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """The first samples of ``x``, at most ``count``, that no kink tells apart in the two precisions."""
    if not x.is_floating_point():
        return x[:count]
    double = copy.deepcopy(model).double()
    truth = sides(double, x.double())
    keep = torch.ones(len(x), dtype=torch.bool)
    layouts = [torch.contiguous_format, *([torch.channels_last] if x.dim() == 4 else [])]
    while True:
        batch = x[keep][:count]
        for layout in layouts:
            same = (sides(model, batch.contiguous(memory_format=layout)) == truth[keep][:count]).all(1)
            if not same.all():
                keep[keep.nonzero()[:count, 0][~same]] = False
                break
        else:
            return batch
