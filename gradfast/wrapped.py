"""Modules that wrap a model: seen through where they only add to it, refused where they change what its parameters are."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch import nn

from gradfast.errors import ModelError

__all__ = ["check_wrapped", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel, which computes the same.

    The engine records and differentiates the forward pass itself. A compiled graph would be one opaque operation to it, and
    DistributedDataParallel would talk to the other ranks, who may not be calling.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif type(model).__name__ == "OptimizedModule" and isinstance(
            inner := getattr(model, "_orig_mod", None), nn.Module
        ):
            model = inner
        else:
            return model


def check_wrapped(modules: Mapping[str, nn.Module]) -> None:
    """Refuses models whose parameters are not what they seem, or whose forward pass learns, by their modules' names.

    Raises:
        ModelError: parameters sharded by FSDP, quantised modules without gradients, or quantisation observers that
            are on.
    """
    for name, module in modules.items():
        where = f"{name} ({type(module).__name__})" if name else f"it ({type(module).__name__})"
        if _is_sharded(module):
            raise ModelError(
                f"model: {where} is wrapped by FSDP, which keeps a flat or sharded copy of its parameters; "
                "wanted the module as it was before, with whole parameters (load the full state dict into it)"
            )
        if ".quantized" in type(module).__module__ and "torch" in type(module).__module__.split(".")[0]:
            raise ModelError(
                f"model: {where} computes with quantised weights, which have no gradients; "
                "wanted the model before it was converted, or as prepared for quantisation-aware training"
            )
        if _observes(module):
            raise ModelError(
                f"model: {where} observes what passes through it, so a sample's result depends on those before it; "
                "wanted model.apply(torch.ao.quantization.disable_observer)"
            )


def _is_sharded(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a module can be of its classes only if it was imported
    if fsdp is None:
        return False
    kinds = tuple(
        getattr(fsdp, kind) for kind in ("FullyShardedDataParallel", "FSDPModule") if hasattr(fsdp, kind)
    )
    return isinstance(module, kinds)


def _observes(module: nn.Module) -> bool:
    enabled = getattr(module, "observer_enabled", None)  # of FakeQuantize and its fused forms, a uint8 buffer
    return enabled is not None and bool(enabled.any())
