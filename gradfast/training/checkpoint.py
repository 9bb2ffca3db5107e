"""A run's state after an epoch, in one safetensors file: tensors in it, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from gradfast.store.errors import CorruptError
from gradfast.store.files import write_atomically

__all__ = ["State", "read_header", "write_tensors"]

_STATE = "state"  # the header's key
# Of a scheduler; the rest follows from the recipe, and MultiStepLR's has integer keys, which JSON has not.
_MOVING = ("last_epoch", "_step_count", "_last_lr")
_MODEL, _EMA, _MOMENTUM = "model/", "ema/", "momentum/"


@dataclass(frozen=True)
class State:
    """What changes while a run trains.

    Attributes:
        model: trained.
        optimizer: over all of the model's parameters, in one group.
        scheduler: of the optimizer.
        ema: averaged weights and buffers, as a module of the model's names; None without.
    """

    model: nn.Module
    optimizer: SGD
    scheduler: LRScheduler
    ema: nn.Module | None

    def save(self, path: Path, more: dict[str, Any]) -> None:
        """Writes the file; it appears whole, in place of the one before, or not at all.

        Raises:
            StoreError: the disk is full, or refuses.
        """
        header = {
            **more,
            "schedule": {key: self.scheduler.state_dict()[key] for key in _MOVING},
            "group": {k: v for k, v in self.optimizer.param_groups[0].items() if k != "params"},
        }
        write_tensors(path, dict(self._tensors()), {_STATE: json.dumps(header)})

    def load(self, path: Path) -> dict[str, Any]:
        """Takes over what `save` wrote; returns ``more``.

        Raises:
            CorruptError: not such a file, or one of another model.
        """
        header = read_header(path)
        try:
            with safe_open(path, "pt") as file, torch.no_grad():
                own = dict(self._tensors(fill=True))
                for name, tensor in own.items():
                    tensor.copy_(file.get_tensor(name))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CorruptError(f"{path}: not a checkpoint of this run: {error}") from error
        self.scheduler.load_state_dict(header.pop("schedule"))
        self.optimizer.param_groups[0].update(header.pop("group"))
        return header

    def _tensors(self, fill: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its name in the file; with ``fill``, momenta that are not there yet are made."""
        for prefix, module in ((_MODEL, self.model), (_EMA, self.ema)):
            if module is not None:
                yield from ((prefix + name, tensor) for name, tensor in module.state_dict().items())
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            if fill and self.optimizer.param_groups[0]["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            if state.get("momentum_buffer") is not None:
                yield _MOMENTUM + name, state["momentum_buffer"]


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        StoreError: the disk is full, or refuses.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, header), path.parent)


def read_header(path: Path) -> dict[str, Any]:
    """The JSON in a checkpoint's header.

    Raises:
        CorruptError: not a checkpoint, or a damaged one.
    """
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()[_STATE])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path}: not a checkpoint, or damaged ({error}); delete it to begin anew"
        ) from error
    return header
