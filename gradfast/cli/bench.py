"""`gradfast bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradfast.cli.parsing import MODELS


def bench(
    model: Annotated[
        str,
        typer.Argument(help=MODELS),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Local .safetensors or state dict; random weights are as good for timing."),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes of a named architecture. Default: its own.")
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Shape of one sample: 3,224,224, or 512 for tokens.")
    ] = "3,224,224",
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="The model takes integers below this.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per call.")] = 16,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many classes. Default: all, at most 10.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Contenders by name, such as gradfast,loop. Default: all.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to repeat the timing.")] = 30.0,
    longest: Annotated[
        float, typer.Option(min=0, help="Seconds that one call may take; a slower way gets fewer samples.")
    ] = 3.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's own.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each in a process of its own.")] = True,
    explain: Annotated[bool, typer.Option(help="Show the plan, layer by layer.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there, too.")] = None,
) -> None:
    """Time gradfast on MODEL against torch's own ways, BackPACK, Opacus and TorchJD, in turn in one run."""
    from gradfast.bench.command import Settings, run
    from gradfast.cli.parsing import integers

    run(
        Settings(
            model=model,
            weights=weights,
            num_classes=num_classes,
            shape=integers("--shape", shape) or (),
            vocabulary=vocabulary,
            batch_size=batch_size,
            classes=classes,
            only=None if only is None else tuple(only.split(",")),
            seconds=seconds,
            longest=longest,
            threads=threads,
            memory=memory,
            explain=explain,
            json_file=json_file,
        )
    )
