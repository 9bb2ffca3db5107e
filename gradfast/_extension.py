"""Loads the compiled operators, or says in one line why they do not load."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path

# pip takes what it has built before for what is wanted now, unless it is told not to.
_REBUILD = (
    "pip install --no-build-isolation -e . (in the checkout), or "
    "pip install --no-build-isolation --force-reinstall --no-deps --no-cache-dir gradfast"
)
_MARKER = re.compile(rb"gradfast-built-for-(torch|cuda)=([^\0]*)\0")


def is_wanted_at_once() -> bool:
    """False for the command `gradfast`, whose help is to be quick: there `gradfast.ops` loads the operators."""
    return Path(sys.argv[0] if sys.argv else "").name != "gradfast"


def load() -> None:
    """Imports `gradfast._C`, which registers `torch.ops.gradfast`.

    Raises:
        ImportError: it was not built, or was built for another torch or CUDA than the one installed.
    """
    import torch  # noqa: F401 -- first, for the extension needs its libraries

    try:
        from . import _C
    except ImportError as error:
        raise ImportError(_reason(error), name="gradfast._C") from None
    built = _C.build_info()
    if unfit := _unfit(built["torch"], built["cuda"]):
        raise ImportError(unfit, name="gradfast._C")


def check(operators: Iterable[str]) -> None:
    """Raises `ImportError` where an operator is not among the compiled ones: a checkout that was updated, but not built again."""
    import torch

    missing = [name for name in operators if not hasattr(torch.ops.gradfast, name)]
    if missing:
        raise ImportError(
            f"gradfast's extension is older than its Python files (it has no {missing[0]}): {_REBUILD}",
            name="gradfast._C",
        )


def _reason(error: ImportError) -> str:
    spec = importlib.util.find_spec("gradfast._C")
    if spec is None or spec.origin is None:
        return f"gradfast's extension is not built: {_REBUILD}"
    built = {name.decode(): value.decode() for name, value in _MARKER.findall(Path(spec.origin).read_bytes())}
    if unfit := _unfit(built.get("torch", "unknown"), built.get("cuda", "")):
        return unfit
    return f"gradfast's extension does not load ({str(error).splitlines()[0]}): {_REBUILD}"


def _unfit(built: str, cuda: str) -> str | None:
    """Why what was built for this torch and this CUDA ("": for the CPU alone) does not go with torch, or None."""
    import torch

    if _minor(built) != _minor(torch.__version__):
        return f"gradfast was built for torch {built}, but torch {torch.__version__} is installed: {_REBUILD}"
    # Kernels for the CPU alone go with a torch of any kind; those for CUDA want a runtime of the same major version.
    if cuda and cuda.split(".")[0] != (torch.version.cuda or "").split(".")[0]:
        installed = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        return (
            f"gradfast was built for CUDA {cuda}, but torch {torch.__version__} has {installed}: {_REBUILD}"
        )
    return None


def _minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
