"""Whether and how csrc/cuda is built: the toolkit, the architectures, the flags.

``python -m build_support.cuda`` prints the toolkit's folder, or in one line why there is none, and fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from . import preflight

# Ampere, Hopper, Blackwell; the PTX serves what comes after. TORCH_CUDA_ARCH_LIST overrides.
ARCHITECTURES = "8.0;9.0a;10.0+PTX"
# torch's headers are read by the host compiler alone: a kernel file needs no more than C++17.
NVCC_FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fvisibility=hidden", "-Xcompiler", "-Wall")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: a folder with bin/nvcc, include and the runtime library."""

    home: Path
    version: str  # "13.0"
    libraries: Path  # the folder of libcudart.so

    def macros(self) -> list[tuple[str, str]]:
        """What build_info reports."""
        archs = re.split(r"[;\s]+", os.environ["TORCH_CUDA_ARCH_LIST"].replace("+PTX", "").strip())
        names = " ".join("sm_" + arch.replace(".", "") for arch in archs)
        return [("GRADFAST_CUDA_ARCHS", f'"{names}"'), ("GRADFAST_CUDA_VERSION", f'"{self.version}"')]


class UnfitError(Exception):
    """Why a toolkit or this torch will not do, in one line."""


def toolkit() -> Toolkit | None:
    """The toolkit to build csrc/cuda with, or None for a build for the CPU alone.

    ``GRADFAST_CUDA=0`` forbids the CUDA build, ``GRADFAST_CUDA=1`` insists on it; without either it is made whenever
    torch is built for CUDA and a toolkit that fits is found, and a line says why it is not.
    """
    wanted = os.environ.get("GRADFAST_CUDA", "")
    if wanted not in ("", "0", "1"):
        preflight.fail(
            f"GRADFAST_CUDA is {wanted!r}: set it to 0 to build for the CPU alone, 1 to insist on CUDA"
        )
    if wanted == "0":
        return None
    try:
        found = fitting_toolkit()
    except UnfitError as error:
        if wanted == "1":
            preflight.fail(f"no CUDA build: {error}")
        if torch.version.cuda is not None:
            print(f"gradfast: built for the CPU alone: {error}", file=sys.stderr)
        return None
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    # torch's own guess is the parent of nvcc's folder, which a wrapper script on the PATH leads astray.
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"] = str(found.home)
    return found


def fitting_toolkit() -> Toolkit:
    """The toolkit for this torch, whatever GRADFAST_CUDA says.

    Raises:
        UnfitError: there is none.
    """
    if torch.version.cuda is None:
        raise UnfitError("this torch is built for the CPU")
    reasons = []
    for home in _homes():
        found = _examine(home, torch.version.cuda)
        if isinstance(found, Toolkit):
            return found
        reasons.append(found)
    if reasons:
        raise UnfitError("; ".join(reasons))
    raise UnfitError(
        f"no nvcc found: pip install 'gradfast[nvcc]', or set CUDA_HOME to a CUDA {torch.version.cuda} toolkit"
    )


def _homes() -> list[Path]:
    """Folders that hold bin/nvcc, best first: what the user names, nvidia's packages, the PATH, the usual place."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if named:
        return [Path(named[0])]
    site = Path(sysconfig.get_paths()["purelib"])
    places = [site / "nvidia" / f"cu{preflight.release(str(torch.version.cuda))[0]}"]
    if on_path := shutil.which("nvcc"):
        places.append(Path(on_path).resolve().parent.parent)
    places.append(Path("/usr/local/cuda"))
    # A wrapper script may stand on the PATH without a toolkit around it.
    complete = [
        place for place in places if (place / "bin" / "nvcc").exists() and (place / "include").is_dir()
    ]
    return list(dict.fromkeys(complete))


def _examine(home: Path, wanted: str) -> Toolkit | str:
    """The toolkit in this folder, or why it will not do."""
    nvcc = home / "bin" / "nvcc"
    if not nvcc.exists():
        return f"{home} has no bin/nvcc"
    run = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+\.\d+)", run.stdout)
    if run.returncode != 0 or not found:
        return f"{nvcc} does not run"
    if preflight.release(found[1]) != preflight.release(wanted):
        return f"{home} is CUDA {found[1]}, torch {torch.__version__} is built for {wanted}"
    for header in ("cuda_runtime.h", "crt/host_defines.h"):
        if not (home / "include" / header).exists():
            return f"{home} has no include/{header}"
    libraries = _runtime_library(home)
    return Toolkit(home, found[1], libraries) if libraries else f"{home} has no libcudart.so"


def _runtime_library(home: Path) -> Path | None:
    """The folder of libcudart.so, which nvidia's packages name libcudart.so.<major> only: then a folder with a link."""
    places = [
        home / "lib64",
        home / "lib",
        Path(sysconfig.get_paths()["purelib"]) / "nvidia" / home.name / "lib",
    ]
    for place in places:
        if (place / "libcudart.so").exists():
            return place
    for place in places:
        for library in sorted(place.glob("libcudart.so.*")):
            links = Path(__file__).resolve().parent.parent / "build" / "cudart"
            links.mkdir(parents=True, exist_ok=True)
            link = links / "libcudart.so"
            link.unlink(missing_ok=True)
            link.symlink_to(library)
            return links
    return None


if __name__ == "__main__":
    try:
        print(fitting_toolkit().home)
    except UnfitError as reason:
        sys.exit(str(reason))
