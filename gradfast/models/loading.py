"""A user's own model, from a Python entry or from an architecture's name with local weights."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from gradfast.errors import InputError, describe

from . import cifar_densenet, cifar_resnet
from .weights import PathType, fill, load_state_dict, without_prefix

__all__ = ["is_named", "load_model", "parse_device"]

Factory = Callable[[int | None], nn.Module]  # num_classes, None for the architecture's own

_BUNDLED = {
    "cifar_resnet20": cifar_resnet.resnet20,
    "cifar_resnet32": cifar_resnet.resnet32,
    "cifar_resnet56": cifar_resnet.resnet56,
    "densenet_bc_40_12": cifar_densenet.densenet_bc_40_12,
    "densenet_bc_100_12": cifar_densenet.densenet_bc_100_12,
}
_WANTED = (
    'wanted "module:function" or "file.py:function" (returns the model), "torchvision:NAME", "timm:NAME", '
    f"or one of {', '.join(_BUNDLED)}"
)


def load_model(
    spec: str,
    weights: PathType | None = None,
    *,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    untrained: bool = False,
) -> nn.Module:
    """Builds a model, fills it with weights from a local file and puts it in eval mode. Nothing is downloaded.

    A Python entry is code and runs; do not take ``spec`` from a file or a person that you do not trust.

    Args:
        spec: ``"module:function"`` or ``"file.py:function"``, called without arguments, returns the model (modules of
            the working directory, or beside the file, are found); ``"torchvision:resnet18"``; ``"timm:resnet18"``; or a bundled network,
            ``"cifar_resnet20"``, ``"cifar_resnet32"``, ``"cifar_resnet56"``, ``"densenet_bc_40_12"``,
            ``"densenet_bc_100_12"``.
        weights: a ``.safetensors`` file or a state dict that `torch.save` wrote. Needed for an architecture's name;
            optional for a Python entry, which may load its own.
        num_classes: K of a named architecture. None reads it off the weights of the head.
        device: where to put the model; None leaves it where it was made.
        untrained: without ``weights``, take an architecture's random ones instead of refusing: enough to time it.

    Raises:
        InputError: an unknown name (with the nearest match), an entry that cannot be imported or does not return a
            module, weights that do not fit, or a device that torch does not have here.
    """
    where = None if device is None else parse_device(device)
    scheme, _, name = spec.partition(":")
    if is_named(spec):
        factory = _factory(spec, scheme, name)
        if weights is not None:
            model = _with_weights(factory, load_state_dict(weights), weights, num_classes)
        elif untrained:
            model = factory(num_classes)
        else:
            raise InputError(
                f"weights: got None; wanted a file with the weights of {spec}, whose own are random"
            )
    elif name:
        if num_classes is not None:
            raise InputError(f"num_classes: got {num_classes}; {spec} decides it itself, wanted None")
        model = _entry(scheme, name)
        if weights is not None:
            fill(model, without_prefix(load_state_dict(weights), model.state_dict()), weights)
    else:
        raise InputError(f"model: got {describe(spec)}{_nearest_model(spec)}; {_WANTED}")
    return model.to(where).eval() if where is not None else model.eval()


def is_named(spec: str) -> bool:
    """Whether a model is an architecture by name, whose weights come from a file; else it is the user's own entry."""
    return spec in _BUNDLED or spec.partition(":")[0] in ("torchvision", "timm")


def parse_device(device: torch.device | str | None) -> torch.device:
    """A device by name, None for the CPU.

    Raises:
        InputError: one that torch does not have here.
    """
    try:
        return torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: got {describe(device)}; wanted one that torch has here ({reason})"
        ) from error


def _factory(spec: str, scheme: str, name: str) -> Factory:
    if spec in _BUNDLED:
        build = _BUNDLED[spec]
        return lambda k: build() if k is None else build(k)
    try:
        library = importlib.import_module("torchvision.models" if scheme == "torchvision" else "timm")
    except ImportError as error:
        raise InputError(
            f"model: {spec} needs {scheme}, which cannot be imported ({error}): pip install {scheme}"
        ) from error
    known: list[str] = library.list_models()
    if name not in known:
        raise InputError(f"model: {scheme} has no model {name!r}{_nearest(name, known)}")
    if scheme == "timm":
        # timm reads 0 classes as "no head"; None as the architecture's own.
        return lambda k: library.create_model(name, pretrained=False, num_classes=k)
    return lambda k: library.get_model(name, weights=None, **({} if k is None else {"num_classes": k}))


def _with_weights(
    factory: Factory, state: Mapping[str, Tensor], path: PathType, num_classes: int | None
) -> nn.Module:
    model = factory(num_classes)
    state = without_prefix(state, model.state_dict())
    if num_classes is None:
        found = _classes_in(state, model)
        if found is not None:
            model = factory(found)
    fill(model, state, path)
    return model


def _classes_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """K in the weights, if they differ from the model in the first dimension of the same few tensors only: its heads."""
    own = model.state_dict()
    sizes = {
        (own[name].shape[0], value.shape[0])
        for name, value in state.items()
        if name in own
        and value.dim() > 0
        and value.shape != own[name].shape
        and value.shape[1:] == own[name].shape[1:]
    }
    return sizes.pop()[1] if len(sizes) == 1 else None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; nearest: {', '.join(near)}" if near else ""


def _nearest_model(spec: str) -> str:
    """A name without its scheme is the commonest slip."""
    for scheme, listing in (("torchvision", "torchvision.models"), ("timm", "timm")):
        try:
            known = importlib.import_module(listing).list_models()
        except ImportError:
            continue
        if spec in known:
            return f"; nearest: {scheme}:{spec}"
    return _nearest(spec, _BUNDLED)


def _entry(module_name: str, function: str) -> nn.Module:
    folder = Path(module_name).resolve().parent if module_name.endswith(".py") else None
    with nullcontext() if folder is None else _importing_from(folder):
        return _built(module_name, function)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """A file finds its neighbours, as under ``python file.py``."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _built(module_name: str, function: str) -> nn.Module:
    module = _import(module_name)
    try:
        build = getattr(module, function)
    except AttributeError:
        public = [
            name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
        ]
        raise InputError(f"model: {module_name} has no {function!r}{_nearest(function, public)}") from None
    if isinstance(build, nn.Module):
        return build
    if not callable(build):
        raise InputError(
            f"model: {module_name}:{function} is {describe(build)}; wanted a function that returns the model"
        )
    model = build()
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: {module_name}:{function}() returned {describe(model)}; wanted a torch.nn.Module"
        )
    return model


def _import(name: str) -> object:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"model: {name} is not a file; {_WANTED}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    directory = str(Path.cwd())
    if (
        directory not in sys.path and "" not in sys.path
    ):  # a console script's path lacks the working directory
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # a dependency of the user's module is missing: their traceback says where
        raise InputError(f"model: there is no Python module {name!r} here or installed; {_WANTED}") from error
