"""The model's input: one tensor, a tuple of positional or a dict of keyword arguments; checks, slices, the call."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gradfast.errors import DropoutWarning, InputError, ModelError, describe
from gradfast.selection import nearest
from gradfast.wrapped import check_wrapped, unwrapped

__all__ = [
    "Inputs",
    "batch_size",
    "call",
    "check_inputs",
    "check_model",
    "check_reference",
    "logits_of",
    "map_tensors",
    "shapes_of_samples",
    "slice_batch",
    "warn_of_dropout",
]

Inputs = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]

# What torch says when an operand has a dtype that the layer's weight does not have.
_DTYPE_MISMATCH = re.compile(
    r"same (dtype|datatype)|expected scalar type|should be the same|not implemented for '|found dtype|must match the dtype"
    r"|mixed dtype|have one of the following scalar types",
    re.IGNORECASE,
)


def _items(x: Inputs) -> Iterator[tuple[str, Any]]:
    if isinstance(x, Tensor):
        yield "x", x
    elif isinstance(x, (tuple, list)):
        yield from ((f"x[{i}]", value) for i, value in enumerate(x))
    elif isinstance(x, dict):
        yield from ((f"x[{key!r}]", value) for key, value in x.items())
    else:
        raise InputError(
            f"x: got {describe(x)}; wanted a tensor, a tuple of arguments or a dict of keyword arguments"
        )


def map_tensors(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """``x`` with the function applied to each of its tensors; other values are passed on as they are."""

    def apply(value: Any) -> Any:
        return function(value) if isinstance(value, Tensor) else value

    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {key: apply(value) for key, value in x.items()}
    return tuple(apply(value) for value in x)


def batch_size(x: Inputs) -> int:
    """B, the leading dimension that all tensors in ``x`` share; 0-d tensors and values of other types have none.

    Raises:
        InputError: no tensor, different leading dimensions, or B = 0.
    """
    sizes = {name: value for name, value in _items(x) if isinstance(value, Tensor) and value.dim() > 0}
    if not sizes:
        raise InputError("x: got no tensor with a batch dimension; wanted tensors of shape [B, ...]")
    (first, tensor), *others = sizes.items()
    b = tensor.shape[0]
    for name, other in others:
        if other.shape[0] != b:
            raise InputError(
                f"x: {first} is {describe(tensor)} but {name} is {describe(other)}; "
                "wanted the same leading dimension B in all of them"
            )
    if b == 0:
        raise InputError(f"x: {first} is {describe(tensor)}, an empty batch; wanted at least one sample")
    return b


def slice_batch(x: Inputs, chunk: slice) -> Inputs:
    """Samples ``chunk`` of the batch, as views."""
    return map_tensors(lambda tensor: tensor[chunk] if tensor.dim() else tensor, x)


def shapes_of_samples(x: Inputs) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
    """Name, shape without B, and dtype of each tensor in ``x``."""
    tensors = ((name, value) for name, value in _items(x) if isinstance(value, Tensor))
    return tuple((name, tuple(value.shape[1:]), value.dtype) for name, value in tensors)


def check_inputs(parameters: Mapping[str, Tensor], x: Inputs) -> int:
    """Checks that ``x`` is a batch on the device of the parameters; returns B.

    Raises:
        InputError: as `batch_size`, or a tensor on another device than the parameters.
        ModelError: parameters on several devices, or on the meta device.
    """
    b = batch_size(x)
    devices = {p.device: name for name, p in reversed(list(parameters.items()))}
    if len(devices) > 1:
        places = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ModelError(
            f"model: its parameters are on several devices ({places}); wanted all of them on one"
        )
    for device, parameter in devices.items():
        if device.type == "meta":
            raise ModelError(
                f"model: {parameter} is on the meta device, without values; wanted a model with its weights"
            )
        for name, value in _items(x):
            if isinstance(value, Tensor) and value.dim() and value.device != device:
                raise InputError(f"x: {name} is {describe(value)}; wanted it on {device}, where the model is")
    return b


def check_model(model: nn.Module) -> dict[str, nn.Parameter]:
    """The floating parameters by name, of a model whose samples do not mix.

    Raises:
        InputError: not a module.
        ModelError: no floating parameter, a BatchNorm that normalises with the statistics of the batch, or a wrapper
            as in `check_wrapped`.
    """
    if not isinstance(model, nn.Module):
        hint = ", here its .module()" if isinstance(model, torch.export.ExportedProgram) else ""
        raise InputError(f"model: got {describe(model)}; wanted a torch.nn.Module{hint}")
    modules = dict(model.named_modules())
    check_wrapped(modules)
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
    if not parameters:
        raise ModelError(f"model: {type(model).__name__} has no floating parameters; wanted at least one")
    for name, module in modules.items():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            where = f"{name or 'the model'} ({type(module).__name__})"
            why = "is in train mode" if module.training else "has no running statistics"
            raise ModelError(
                f"model: {where} {why}, so it mixes the samples of a batch and no per-sample gradient exists; "
                + ("wanted model.eval()" if module.training else "wanted track_running_stats=True")
            )
    return parameters


_WARNED: WeakSet[nn.Module] = WeakSet()


def warn_of_dropout(model: nn.Module) -> None:
    """Warns, as `DropoutWarning` and once per model, of a dropout with p > 0 in train mode."""
    if model in _WARNED:
        return
    for name, module in model.named_modules():
        if module.training and _dropped(module) > 0:
            _WARNED.add(model)
            where = f"{name} ({type(module).__name__})" if name else f"it ({type(module).__name__})"
            warnings.warn(
                f"model: {where} drops at random, for it is in train mode, so the norms are those of one draw of masks; "
                "model.eval() makes them those of the model",
                DropoutWarning,
                stacklevel=4,
            )
            return


def _dropped(module: nn.Module) -> float:
    """The share that a module of torch drops in train mode."""
    if isinstance(module, _DropoutNd):
        return module.p
    return float(module.dropout) if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) else 0.0


def check_reference(parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of the reference gradients of `grad_dots`, in the order of the parameters.

    Raises:
        InputError: not a mapping, empty, a name that is no parameter, or a tensor of another shape than its own.
    """
    if not isinstance(reference, Mapping) or not reference:
        raise InputError(f"reference: got {describe(reference)}; wanted a dict of parameter names to tensors")
    for name, tensor in reference.items():
        if name not in parameters:
            raise InputError(f"reference: no parameter is called {name!r}; {nearest(name, list(parameters))}")
        shape = list(parameters[name].shape)
        if not isinstance(tensor, Tensor) or list(tensor.shape) != shape:
            raise InputError(
                f"reference: {name!r} is {describe(tensor)}; wanted shape {shape}, as the parameter"
            )
    return tuple(name for name in parameters if name in reference)


def call(model: nn.Module, x: Inputs) -> Any:
    """`logits_of` ``model(x)``, ``model(*x)`` or ``model(**x)``; says so if the input's dtype is what the model choked on.

    Raises:
        InputError: the model refused an integer input, or one of another floating dtype than its parameters.
    """
    model = unwrapped(model)
    try:
        if isinstance(x, Tensor):
            return logits_of(model(x))
        return logits_of(model(**x) if isinstance(x, dict) else model(*x))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        culprit = _wrong_dtype(model, x, str(error))
        if culprit is None:
            raise
        name, value, wanted = culprit
        raise InputError(f"x: {name} is {describe(value)}; wanted {wanted} ({error})") from error


def logits_of(out: Any) -> Any:
    """``out["logits"]`` of a dict, such as a Hugging Face output; anything else as it is."""
    logits = out.get("logits") if isinstance(out, Mapping) else None
    return logits if isinstance(logits, Tensor) else out


def _wrong_dtype(model: nn.Module, x: Inputs, message: str) -> tuple[str, Tensor, str] | None:
    """The first tensor of ``x`` whose dtype can be what torch complains of, and the dtype that it wants."""
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    if not dtypes or not _DTYPE_MISMATCH.search(message):
        return None
    for name, value in _items(x):
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        if "'indices'" in message and value.is_floating_point():
            return name, value, "token indices of an integer dtype (torch.int64)"
        if value.dtype not in dtypes:
            return name, value, f"{dtypes[0]}, as the model's parameters are"
    return None
