"""State dicts from local files, without unpickling anything but tensors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gradfast.data.images import Preprocess
from gradfast.errors import InputError, describe

__all__ = ["fill", "load_preprocess", "load_state_dict", "preprocess_header", "without_prefix"]

PathType = str | PathLike[str]

_PREPROCESS = "gradfast.preprocess"  # the key in a safetensors file's header

# Keys under which training scripts (torchvision's references, timm, Lightning, MoCo, ...) nest the state dict.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net")
# What wrappers put before each name: DistributedDataParallel, torch.compile, Lightning modules.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_state_dict(path: PathType) -> dict[str, Tensor]:
    """Reads a state dict on the CPU.

    Args:
        path: a ``.safetensors`` file, or one that `torch.save` wrote (any other suffix), which is read with
            ``weights_only=True``: tensors and plain containers only. A state dict nested in a checkpoint under one
            of the usual keys is found.

    Returns:
        Tensors by parameter name, as stored.

    Raises:
        InputError: no such file, a damaged one, one that holds pickled objects, or one without a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"weights: {path} is not a file; wanted a .safetensors file or one that torch.save wrote"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights: {path} cannot be read as safetensors: {error}") from error
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights: {path} is not a plain state dict: it holds pickled Python objects, which can run code when read, "
            "or is damaged; wanted what torch.save(model.state_dict(), path) writes"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"weights: {path} cannot be read, it may be damaged: {error}") from error
    return _state_dict_in(stored, path)


def _state_dict_in(stored: object, path: Path) -> dict[str, Tensor]:
    if isinstance(stored, Mapping):
        for key in _NESTED:
            if isinstance(stored.get(key), Mapping):
                return _state_dict_in(stored[key], path)
        tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(stored):
            return tensors
    keys = ", ".join(map(str, list(stored)[:8])) if isinstance(stored, Mapping) else describe(stored)
    raise InputError(f"weights: {path} holds no state dict; got {keys}; wanted tensors by parameter name")


def preprocess_header(preprocess: Preprocess) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file whose weights were trained on images prepared like this."""
    return {_PREPROCESS: json.dumps(preprocess.settings())}


def load_preprocess(path: PathType) -> Preprocess | None:
    """How the images were prepared that weights were trained on, as `gradfast.training.train` writes it; None if unsaid.

    Raises:
        InputError: no such file, a damaged one, or an entry that is no preprocessing.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_PREPROCESS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights: {path} cannot be read as safetensors: {error}") from error
    if text is None:
        return None
    try:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()
        }
        return Preprocess(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"weights: {path}: its header's {_PREPROCESS} cannot be read: {error}") from error


def fill(model: nn.Module, state: Mapping[str, Tensor], path: PathType) -> None:
    """Loads a state dict into the model, all of it or nothing.

    Raises:
        InputError: names are missing or unknown, or shapes differ; the message counts and shows them.
    """
    own = model.state_dict()
    # BatchNorm's counter matters in training only; older files and converters leave it out.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(state[name].shape)} for {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise InputError(f"weights: {path} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(state, strict=False)


def without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state dict without the prefix of a wrapper that all its names carry, unless the model's ``own`` do too."""
    for prefix in _PREFIXES:
        if (
            state
            and all(name.startswith(prefix) for name in state)
            and not all(n.startswith(prefix) for n in own)
        ):
            return without_prefix({name.removeprefix(prefix): value for name, value in state.items()}, own)
    return state
