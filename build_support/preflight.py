"""Checks that run before a build, each failing with one line that says what to do."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NoReturn

MINIMUM_TORCH = "2.6"


def fail(message: str) -> NoReturn:
    """Ends the build with one line."""
    sys.exit(f"gradfast: {message}")


def release(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as "2.14.1+cu130"."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def require_torch() -> ModuleType:
    """Torch, new enough to build against and the same that the result will run with."""
    try:
        import torch
    except ModuleNotFoundError:
        fail(f"torch is not installed for {sys.executable}: pip install 'torch>={MINIMUM_TORCH}' first")
    except (ImportError, OSError) as error:
        fail(f"torch is installed but does not import ({str(error).splitlines()[0]}): reinstall it")
    if release(torch.__version__) < release(MINIMUM_TORCH):
        fail(f"torch {torch.__version__} is too old: pip install 'torch>={MINIMUM_TORCH}'")
    _refuse_other_torch(torch)
    return torch


def site_folders() -> list[Path]:
    """Where the packages of the environment that is built for may lie, best first; build isolation hides them.

    pip's isolation keeps the interpreter; other front ends make an environment of their own, then the activated one is
    meant. Folders that do not exist are left out.
    """
    paths = sysconfig.get_paths()
    places = [Path(paths["purelib"]), Path(paths["platlib"])]
    if sys.prefix == sys.base_prefix:
        places.append(Path(site.getusersitepackages()))
    if environment := os.environ.get("VIRTUAL_ENV"):
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        places.append(Path(environment) / "lib" / python / "site-packages")
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _refuse_other_torch(torch: ModuleType) -> None:
    # What is built for a torch from elsewhere (PYTHONPATH, an isolated build's own) would not load beside this one.
    folder = sysconfig.get_paths()["purelib"]
    if Path(folder).resolve() in Path(str(torch.__file__)).resolve().parents:
        return
    installed = next(iter(importlib.metadata.distributions(name="torch", path=[folder])), None)
    if installed is not None and installed.version.split("+")[0] != torch.__version__.split("+")[0]:
        fail(
            f"torch {installed.version} is installed, but the build sees "
            f"torch {torch.__version__} in {Path(str(torch.__file__)).parent.parent}: use pip install --no-build-isolation"
        )


def require_ninja() -> None:
    """Ninja, also from a virtual environment that is not activated."""
    scripts = sysconfig.get_path("scripts")
    os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), scripts]))
    if shutil.which("ninja") is None:
        fail("ninja is not installed: pip install ninja")


def require_compiler(standard: str) -> list[str]:
    """The command of a C++ compiler that takes `standard` ("-std=c++20")."""
    command = shlex.split(os.environ.get("CXX", "c++"))  # as torch.utils.cpp_extension chooses it
    if not command or shutil.which(command[0]) is None:
        fail(f"no C++ compiler ({' '.join(command) or 'CXX is empty'}): apt-get install g++, or set CXX")
    if not accepts(command, [standard], "#include <vector>\nint main() { return 0; }"):
        fail(
            f"{command[0]} does not compile with {standard}: install GCC 11 or Clang 14 or newer, or set CXX"
        )
    return command


def accepts(command: list[str], flags: list[str], source: str = "int main() { return 0; }") -> bool:
    """Whether the compiler takes these flags for this source."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.cpp"
        path.write_text(source)
        run = subprocess.run(
            [*command, *flags, "-c", str(path), "-o", str(path.with_suffix(".o"))],
            capture_output=True,
            check=False,
        )
    return run.returncode == 0
