"""The version that is built: the package's own, and a local part that names the torch and CUDA it was built for."""

from __future__ import annotations

import re
from pathlib import Path

from .preflight import release

ROOT = Path(__file__).resolve().parent.parent


def public() -> str:
    """The version of gradfast, from the one place where it is written."""
    text = (ROOT / "gradfast" / "version.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found, "gradfast/version.py has no __version__"
    return found[1]


def of_wheel(torch: str, cuda: str | None) -> str:
    """The version of a wheel: "0.1.0+torch2.14.cu130", or "0.1.0+torch2.14.cpu" without CUDA kernels.

    Args:
        torch: the version of the torch that it is built for.
        cuda: the version of the CUDA toolkit ("13.0"), or None for a build for the CPU alone.
    """
    # pip refuses a wheel of another version than its sdist's, whose version names no torch.
    if (ROOT / "PKG-INFO").exists():
        return public()
    major, minor = release(torch)
    kernels = "cu" + cuda.replace(".", "") if cuda else "cpu"
    return f"{public()}+torch{major}.{minor}.{kernels}"
