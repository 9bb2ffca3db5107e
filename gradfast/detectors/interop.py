"""`isinstance(detector, pytorch_ood.api.Detector)`, without importing pytorch-ood, which takes a second and torchvision."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["register_with_pytorch_ood"]

_API = "pytorch_ood.api"


def register_with_pytorch_ood(detector: type) -> None:
    """Makes `detector` a virtual subclass of `pytorch_ood.api.Detector`: now, if that is imported, else once it is."""
    if _API in sys.modules:
        sys.modules[_API].Detector.register(detector)
    else:
        sys.meta_path.insert(0, _WhenImported(detector))


class _WhenImported(MetaPathFinder):
    """Finds one module as usual, and registers with it after it has run; then it is gone."""

    def __init__(self, detector: type) -> None:
        self._detector = detector

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _API:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader, self._detector)
        return spec


class _Registering(Loader):
    """Another loader, followed by the registration."""

    def __init__(self, loader: Loader, detector: type) -> None:
        self._loader, self._detector = loader, detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source and the like, for tracebacks

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.Detector.register(self._detector)
