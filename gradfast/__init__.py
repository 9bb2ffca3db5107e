"""Exact per-sample, per-class gradient norms of a neural network, without computing the gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _extension
from .version import __version__

if TYPE_CHECKING:
    from .errors import FallbackWarning, GradfastError, HookWarning, InputError, ModelError
    from .extractor import FeatureExtractor
    from .features import Features
    from .norms import GradNorms, explain, grad_cosines, grad_dots, grad_gram, grad_norms

if _extension.is_wanted_at_once():
    _extension.load()

# Public name -> the module that defines it; imported at first use, so that `import gradfast` stays quick.
_PUBLIC = {
    "grad_norms": "norms",
    "grad_gram": "norms",
    "grad_dots": "norms",
    "grad_cosines": "norms",
    "explain": "norms",
    "GradNorms": "norms",
    "FeatureExtractor": "extractor",
    "Features": "features",
    "GradfastError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "FallbackWarning": "errors",
    "HookWarning": "errors",
}

# Public modules, imported at first use too.
_MODULES = ("data", "detectors", "gradcon", "models", "ops", "reference")

__all__ = [
    "FallbackWarning",
    "FeatureExtractor",
    "Features",
    "GradNorms",
    "GradfastError",
    "HookWarning",
    "InputError",
    "ModelError",
    "__version__",
    "explain",
    "grad_cosines",
    "grad_dots",
    "grad_gram",
    "grad_norms",
]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_MODULES})
