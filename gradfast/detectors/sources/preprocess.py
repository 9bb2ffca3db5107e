"""Input preprocessing: a small step that makes a sample more typical, in the sign of a score's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gradfast.detectors.sources.taps import Activations
from gradfast.errors import InputError, describe

__all__ = ["Std", "check_step", "stepped"]

Std: TypeAlias = Sequence[float] | Tensor | float | None


def check_step(eps: float, std: Std) -> tuple[float, ...] | None:
    """`std` as a tuple.

    Raises:
        InputError: eps is not a finite number >= 0, or std holds other than finite numbers > 0.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise InputError(f"eps: got {describe(eps)}; wanted a finite number of at least 0")
    if std is None:
        return None
    values = torch.as_tensor(std, dtype=torch.float64).reshape(-1)
    if not len(values) or not bool((values.isfinite() & (values > 0)).all()):
        raise InputError(f"std: got {describe(std)}; wanted numbers above 0, one per channel")
    return tuple(values.tolist())


def stepped(activations: Activations, score: Tensor, eps: float, std: tuple[float, ...] | None) -> Tensor:
    """x - eps * sign(d score / d x) / std, which lowers the score [B] of each sample.

    The division comes after the sign, as in the code of ODIN and of Lee et al.: eps is in units of pixels in
    [0, 1] where the model's inputs were divided by `std`, one number or one per channel (dimension 1).
    """
    step = eps * activations.input_gradient(score).sign()
    if std is not None:
        if len(std) not in (1, step.shape[1] if step.dim() > 1 else 1):
            raise InputError(
                f"std: got {len(std)} numbers for inputs of shape {list(step.shape)}; wanted one per channel"
            )
        step = step / step.new_tensor(std).view(-1, *[1] * (step.dim() - 2))
    return activations.x.detach() - step
