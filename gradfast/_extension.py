"""Loads the compiled operators, or says in one line why they do not load."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

_REBUILD = (
    "pip install --no-build-isolation -e . (in the checkout), or pip install --no-build-isolation gradfast"
)
_MARKER = re.compile(rb"gradfast-built-for-torch=([^\0]+)\0")


def is_wanted_at_once() -> bool:
    """False for the command `gradfast`, whose help is to be quick: there `gradfast.ops` loads the operators."""
    return Path(sys.argv[0] if sys.argv else "").name != "gradfast"


def load() -> None:
    """Imports `gradfast._C`, which registers `torch.ops.gradfast`.

    Raises:
        ImportError: it was not built, or was built for another torch than the one installed.
    """
    installed = _torch()  # first, for the extension needs its libraries
    try:
        from . import _C
    except ImportError as error:
        raise ImportError(_reason(error), name="gradfast._C") from None
    built = _C.build_info()["torch"]
    if _minor(built) != _minor(installed):
        raise ImportError(_other_torch(built), name="gradfast._C")


def _reason(error: ImportError) -> str:
    spec = importlib.util.find_spec("gradfast._C")
    if spec is None or spec.origin is None:
        return f"gradfast's extension is not built: {_REBUILD}"
    found = _MARKER.search(Path(spec.origin).read_bytes())
    built = found[1].decode() if found else "unknown"
    if _minor(built) != _minor(_torch()):
        return _other_torch(built)
    return f"gradfast's extension does not load ({str(error).splitlines()[0]}): {_REBUILD}"


def _other_torch(built: str) -> str:
    return f"gradfast was built for torch {built}, but torch {_torch()} is installed: {_REBUILD}"


def _torch() -> str:
    import torch

    return torch.__version__


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
