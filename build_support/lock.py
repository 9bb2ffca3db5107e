"""Writes requirements/NAME.lock from an environment: ``python -m build_support.lock NAME PYTHON``."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"


def environment(python: str) -> str:
    """What the environment is, in one line: "Python 3.11, linux x86_64"."""
    code = "import platform, sys; print(f'Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform} {platform.machine()}')"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def lines(frozen: str) -> list[str]:
    """The pins of a ``pip freeze``, without gradfast and without anything that names a host or a path."""
    pins = [
        line for line in frozen.splitlines() if line.strip() and not line.startswith(("#", "-e ", "gradfast"))
    ]
    unpinned = [line for line in pins if "==" not in line]
    if unpinned:
        raise SystemExit(f"installed from a place, not by a version: {', '.join(unpinned)}")
    return sorted(pins, key=str.lower)


def main() -> None:
    """Writes the lock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["dev", "docs"])
    parser.add_argument("python", help="the environment's interpreter")
    asked = parser.parse_args()
    freeze = [asked.python, "-m", "pip", "freeze", "--all", "--exclude", "pip", "--exclude-editable"]
    pins = lines(subprocess.run(freeze, check=True, capture_output=True, text=True).stdout)
    head = [f"# {environment(asked.python)}. Made by `make lock`, checked by tests/test_packaging.py.", ""]
    (FOLDER / f"{asked.name}.lock").write_text("\n".join([*head, *pins, ""]))


if __name__ == "__main__":
    main()
