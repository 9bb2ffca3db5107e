"""`gradfast train`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gradfast.cli.parsing import MODELS, Channels


class Schedule(str, Enum):
    """Learning rate schedules by name."""

    one_cycle = "one-cycle"
    cosine = "cosine"
    step = "step"


def train(
    model: Annotated[
        str,
        typer.Argument(help=f"{MODELS} Its weights are those to begin with."),
    ],
    data: Annotated[str, typer.Argument(help="Images to train on, as for extract.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory; a run that was begun there goes on.")],
    test: Annotated[
        str | None,
        typer.Option(
            help="Images to test on. Default: the test split of DATA, where it has splits (torchvision, .npz, MNIST's files, Parquet by split); else a tenth of it."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 30,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(help="The largest learning rate of the schedule.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of every parameter.")] = 5e-4,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate changes.")] = Schedule.one_cycle,
    augment: Annotated[bool, typer.Option(help="Random crops and flips.")] = True,
    crop: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the random crops; smaller trains faster. Default: the image's."),
    ] = None,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16; pays where the CPU has it.")] = False,
    ema: Annotated[
        float | None, typer.Option(help="Keep a moving average of the weights, of this decay per step.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights, order, crops and flips.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="Where to compute, such as cuda:0. Default: the CPU.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on the first so many images only.")] = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Test on the first so many only.")] = None,
    size: Annotated[str | None, typer.Option(help="Resize to 32 (square) or 32,48 (height, width).")] = None,
    channels: Annotated[Channels, typer.Option(help="1 for grey, 3 for RGB.")] = Channels.rgb,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted from pixels in [0, 1]: 0.5 or r,g,b. Default: ImageNet's.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Divides them then: 0.5 or r,g,b. Default: ImageNet's.")
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=2, help="Number of classes of a named architecture. Default: those of DATA."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a bar per epoch.")] = True,
) -> None:
    """Train MODEL on DATA by a standard recipe: SGD, crops and flips. Started again, it goes on."""
    from rich.console import Console

    from gradfast.cli.parsing import integers, numbers
    from gradfast.data import Preprocess
    from gradfast.training.command import Job, run_job
    from gradfast.training.recipe import Recipe

    side = integers("--size", size)
    preprocess = Preprocess(
        size=side[0] if side is not None and len(side) == 1 else side,  # type: ignore[arg-type]
        channels=int(channels.value),
    )
    grey = channels is Channels.grey
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule.value,
        augment=augment,
        crop=crop,
        bf16=bf16,
        ema=ema,
        seed=seed,
        mean=_tuple(numbers("--mean", mean)) or ((0.449,) if grey else Recipe.mean),
        std=_tuple(numbers("--std", std)) or ((0.226,) if grey else Recipe.std),
    )
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    job = Job(model, data, out, recipe, preprocess, test, limit, test_limit, num_classes, threads, device)
    run_job(job, progress=progress, say=say)


def _tuple(value: tuple[float, ...] | float | None) -> tuple[float, ...] | None:
    return value if value is None or isinstance(value, tuple) else (value,)
