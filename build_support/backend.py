"""The build backend: setuptools', compiling against the torch of the user's environment, isolated or not.

Build isolation hides the environment's packages. A torch installed for the build alone would be a second one, gigabytes
large and perhaps newer, and what is compiled against it would not load beside the first. So the backend asks for no
torch: it looks for the one that the environment has, and fails in one line where there is none.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from setuptools import build_meta

from . import preflight

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, Any] | None


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Nothing: an sdist holds sources, whatever torch there is."""
    return []


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Nothing beyond pyproject.toml; ends the build here, before anything is compiled, where there is no torch."""
    _see_torch()
    return []


get_requires_for_build_editable = get_requires_for_build_wheel
build_sdist = build_meta.build_sdist


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """setuptools', with torch in sight: the version and the dependencies name it."""
    _see_torch()
    return str(build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    """As `prepare_metadata_for_build_wheel`."""
    _see_torch()
    return str(build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings))


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """setuptools', with torch in sight."""
    _see_torch()
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """setuptools', with torch in sight."""
    _see_torch()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def _see_torch() -> None:
    """Makes the environment's torch importable, behind all that the isolated build has of its own."""
    if importlib.util.find_spec("torch") is not None:
        return
    folders = preflight.site_folders()
    site = next((folder for folder in folders if (folder / "torch" / "version.py").exists()), None)
    if site is None:
        looked = os.pathsep.join(str(folder) for folder in folders)
        preflight.fail(
            f"no torch for the build to see (looked in {looked}): pip install 'torch>={preflight.MINIMUM_TORCH}' first; "
            "if it is installed elsewhere, build without isolation (pip: --no-build-isolation, build: --no-isolation)"
        )
    sys.path.append(str(site))
    importlib.invalidate_caches()
    print(f"gradfast: isolated build, compiled against the torch in {site}", file=sys.stderr)
