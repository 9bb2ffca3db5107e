"""Builds gradfast's extension; all else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

# A PEP 517 build does not put the checkout on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_support import preflight

torch = preflight.require_torch()

from build_support.command import BuildExt  # noqa: E402
from build_support.extension import extension  # noqa: E402

major, minor = preflight.release(torch.__version__)

setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExt},
    # torch's C++ interface changes between minor releases: the wheel says which one it was built for.
    install_requires=[
        f"torch=={major}.{minor}.*",
        "numpy>=1.24",
        "pillow>=10",
        "pyarrow>=14",
        "rich>=13",
        "safetensors>=0.4",
        "scikit-learn>=1.6",
        "skops>=0.10",
        "tomli>=2; python_version < '3.11'",
        "typer>=0.12",
    ],
)
