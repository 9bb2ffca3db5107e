"""Templates to pages, and files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradfast.errors import GradfastError
from gradfast.report import theme
from gradfast.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "write_text"]


def render(template: str, **values: Any) -> str:
    """The HTML of a template in `templates`; values are escaped but where it says otherwise.

    Raises:
        GradfastError: jinja2 is not installed.
    """
    page = _environment().get_template(template)
    return page.render(variables=theme.css_variables(), version=__version__, **values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise GradfastError(
            "jinja2 is not installed; reports need it: pip install '.[report]' in gradfast's checkout"
        ) from error
    loader = PackageLoader("gradfast.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Writes a text file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        file.write(text)
    scratch = Path(file.name)
    scratch.chmod(0o644)
    scratch.replace(path)
    return path
