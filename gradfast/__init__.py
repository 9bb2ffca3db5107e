"""Exact per-sample, per-class gradient norms of a neural network, without computing the gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _extension
from .version import __version__

if TYPE_CHECKING:
    from . import attacks as attacks
    from . import corruptions as corruptions
    from . import data as data
    from . import detectors as detectors
    from . import distributed as distributed
    from . import gradcon as gradcon
    from . import integrations as integrations
    from . import models as models
    from . import ops as ops
    from . import reference as reference
    from . import store as store
    from . import studies as studies
    from . import training as training
    from .errors import DropoutWarning, FallbackWarning, GradfastError, HookWarning, InputError, ModelError
    from .extractor import FeatureExtractor, FlaggedWarning
    from .features import Features
    from .norms import explain, grad_cosines, grad_dots, grad_gram, grad_norms
    from .results import GradCosines, GradDots, GradGram, GradNorms

if _extension.is_wanted_at_once():
    _extension.load()

# Public name -> the module that defines it; imported at first use, so that `import gradfast` stays quick.
_PUBLIC = {
    "grad_norms": "norms",
    "grad_gram": "norms",
    "grad_dots": "norms",
    "grad_cosines": "norms",
    "explain": "norms",
    "GradNorms": "results",
    "GradGram": "results",
    "GradDots": "results",
    "GradCosines": "results",
    "FeatureExtractor": "extractor",
    "FlaggedWarning": "extractor",
    "Features": "features",
    "GradfastError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "DropoutWarning": "errors",
    "FallbackWarning": "errors",
    "HookWarning": "errors",
}

# Public modules, imported at first use too.
_MODULES = (
    "attacks",
    "corruptions",
    "data",
    "detectors",
    "distributed",
    "gradcon",
    "integrations",
    "models",
    "ops",
    "reference",
    "store",
    "studies",
    "training",
)

__all__ = [
    "DropoutWarning",
    "FallbackWarning",
    "FeatureExtractor",
    "Features",
    "FlaggedWarning",
    "GradCosines",
    "GradDots",
    "GradGram",
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
