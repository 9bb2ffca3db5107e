"""Builds gradfast's extension; all else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

# Neither a PEP 517 front end nor a copy of this file run from elsewhere puts the checkout on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_support import preflight, version

REQUIRES = [
    "numpy>=1.24",
    "pillow>=10",
    "pyarrow>=14",
    "rich>=13",
    "safetensors>=0.4",
    "scikit-learn>=1.6",
    "skops>=0.10",
    "tomli>=2; python_version < '3.11'",
    "typer>=0.12",
]

if "sdist" in sys.argv and {"build", "build_ext", "bdist_wheel", "install"}.isdisjoint(sys.argv):
    # Sources only: made without a torch, for any.
    setup(version=version.public(), install_requires=[f"torch>={preflight.MINIMUM_TORCH}", *REQUIRES])
else:
    torch = preflight.require_torch()

    from build_support import cuda
    from build_support.command import BuildExt
    from build_support.extension import extension

    toolkit = cuda.toolkit()
    major, minor = preflight.release(torch.__version__)
    setup(
        version=version.of_wheel(torch.__version__, toolkit.version if toolkit else None),
        ext_modules=[extension(toolkit)],
        cmdclass={"build_ext": BuildExt},
        # torch's C++ interface changes between minor releases: the wheel says which one it was built for.
        install_requires=[f"torch=={major}.{minor}.*", *REQUIRES],
    )
