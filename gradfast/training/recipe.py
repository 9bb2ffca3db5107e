"""What a training run does, as numbers that are written down with it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from gradfast.errors import InputError, describe

__all__ = ["SCHEDULES", "Recipe"]

SCHEDULES = ("one-cycle", "cosine", "step")


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's momentum on the cross entropy, random crops (4 pixels of zeros around) and flips.

    He et al. (2016) train for 164 epochs in batches of 128, Huang et al. (2017) for 300 in batches of 64, both from
    lr = 0.1 with ``schedule="step"`` and ``weight_decay=1e-4``. The defaults are for a run as short as 30 epochs.

    Args:
        epochs: passes over the images.
        batch_size: images per step, at least 2; an epoch's last batch may be smaller.
        lr: the schedule's largest learning rate.
        momentum: of SGD, in [0, 1).
        weight_decay: on every parameter.
        schedule: by step, of torch.optim.lr_scheduler: "one-cycle" (up for 30% of the steps, then down to nothing; the
            momentum fixed), "cosine" (down to nothing), or "step" (a tenth after half of the steps, a hundredth after
            three quarters).
        augment: crops and flips; False shows the images as they are.
        crop: side of the crops in pixels, from within the image; at 24 of 32 pixels a step of a network that ends in a
            global average costs nearly half. None: as large as the image, from the padded one. Tests see whole images.
        bf16: forward and backward under autocast to bfloat16; weights and sums stay float32.
        ema: decay per step of an exponential moving average of weights and buffers, which is then what is tested and
            kept; None: the weights themselves.
        seed: of initialisation, order, crops and flips; at least 0.
        mean: subtracted from pixels in [0, 1], one number per channel or one for all; default: ImageNet's.
        std: what the difference is divided by.

    Raises:
        InputError: a value out of range.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one-cycle"
    augment: bool = True
    crop: int | None = None
    bf16: bool = False
    ema: float | None = None
    seed: int = 0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}: got {describe(value)}; wanted an integer, at least {least}")
        if not _is_number(self.lr) or self.lr <= 0:
            raise InputError(f"lr: got {describe(self.lr)}; wanted a positive number")
        if not _is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise InputError(f"momentum: got {describe(self.momentum)}; wanted a number in [0, 1)")
        if not _is_number(self.weight_decay) or self.weight_decay < 0:
            raise InputError(f"weight_decay: got {describe(self.weight_decay)}; wanted a number, at least 0")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule: got {describe(self.schedule)}; wanted one of {', '.join(SCHEDULES)}")
        if self.crop is not None and (
            isinstance(self.crop, bool) or not isinstance(self.crop, int) or self.crop < 1 or not self.augment
        ):
            hint = "" if self.augment else "; augment=False takes no crops"
            raise InputError(f"crop: got {describe(self.crop)}; wanted an integer, at least 1, or None{hint}")
        if self.ema is not None and (not _is_number(self.ema) or not 0 < self.ema < 1):
            raise InputError(f"ema: got {describe(self.ema)}; wanted a number between 0 and 1, or None")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or not all(map(_is_number, value)):
                raise InputError(f"{name}: got {describe(value)}; wanted a tuple of numbers, one per channel")
        if min(self.std) <= 0:
            raise InputError(f"std: got {describe(self.std)}; wanted positive numbers")

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> SGD:
        """SGD over the parameters."""
        return SGD(
            parameters,
            self.lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
        )

    def scheduler(self, optimizer: SGD, steps_per_epoch: int) -> LRScheduler:
        """The schedule, to be stepped after each batch."""
        steps = self.epochs * steps_per_epoch
        if self.schedule == "one-cycle":
            return lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps, cycle_momentum=False)
        if self.schedule == "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return lr_scheduler.MultiStepLR(optimizer, [math.ceil(steps / 2), math.ceil(3 * steps / 4)])

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] as the model takes it, float32 in channels_last.

        Raises:
            InputError: as many numbers in mean or std as neither 1 nor C.
        """
        channels = pixels.shape[1]
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) not in (1, channels):
                raise InputError(
                    f"{name}: got {describe(numbers)}; wanted one number or {channels}, one per channel"
                )
        mean, std = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return pixels.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
