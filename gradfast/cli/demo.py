"""`gradfast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for report.html.")] = Path(
        "gradfast-demo"
    ),
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the training, the corruptions and the splits.")
    ] = 0,
) -> None:
    """Train a digit classifier, and let gradient norms tell which images it does not know. Needs no data."""
    from rich.console import Console

    from gradfast.demo import run_demo
    from gradfast.report import protocol_tables, rich_table

    console = Console()
    with console.status("training a small network"):
        result = run_demo(
            out, seed=seed, say=lambda line: console.print(f"[green]•[/] {line}", highlight=False)
        )
    for table in protocol_tables(result.outcomes):
        console.print()
        console.print(rich_table(table))
        for note in table.notes:
            console.print(note, style="dim", highlight=False)
    console.print(f"\nreport: {result.report}   ({result.seconds:.0f} s)", highlight=False, soft_wrap=True)
