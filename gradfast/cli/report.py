"""`gradfast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[
        Path,
        typer.Argument(
            help="Any directory that gradfast wrote: features, a detector, a study, a training, GradCON, benchmarks."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file to write. Default: NAME-report.html here."),
    ] = None,
) -> None:
    """Show what a directory of results holds as one HTML file: tables, figures, pictures, texts."""
    from gradfast.report.directory import read_directory, render_directory
    from gradfast.report.html import write_text

    page = read_directory(directory)
    written = write_text(render_directory(page), out or Path(f"{page.name}-report.html"))
    for name, why in page.unread:
        print(f"not read: {name}: {why}")
    print(f"report: {written}   ({len(page.sections)} sections)")
