"""`gradfast info`: what is installed, what was built and what runs."""

from __future__ import annotations

from typing import Annotated

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Versions, what was built for which torch, and which instruction set and devices run."""
    import json

    from gradfast.info import collect, render

    found = collect()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console

    Console().print(render(found))
