"""Loads the compiled operators, or says in one line why they do not load."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

_REBUILD = (
    "pip install --no-build-isolation -e . (in the checkout), or pip install --no-build-isolation gradfast"
)
_MARKER = re.compile(rb"gradfast-built-for-torch=([^\0]+)\0")


def load() -> None:
    """Imports `gradfast._C`, which registers `torch.ops.gradfast`.

    Raises:
        ImportError: it was not built, or was built for another torch than the one installed.
    """
    try:
        from . import _C
    except ImportError as error:
        raise ImportError(_reason(error), name="gradfast._C") from None
    built = _C.build_info()["torch"]
    if _minor(built) != _minor(torch.__version__):
        raise ImportError(_other_torch(built), name="gradfast._C")


def _reason(error: ImportError) -> str:
    spec = importlib.util.find_spec("gradfast._C")
    if spec is None or spec.origin is None:
        return f"gradfast's extension is not built: {_REBUILD}"
    found = _MARKER.search(Path(spec.origin).read_bytes())
    built = found[1].decode() if found else "unknown"
    if _minor(built) != _minor(torch.__version__):
        return _other_torch(built)
    return f"gradfast's extension does not load ({str(error).splitlines()[0]}): {_REBUILD}"


def _other_torch(built: str) -> str:
    return f"gradfast was built for torch {built}, but torch {torch.__version__} is installed: {_REBUILD}"


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
