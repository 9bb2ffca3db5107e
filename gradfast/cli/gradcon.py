"""`gradfast gradcon train | score | study`: autoencoders with constrained gradients."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradfast.cli.parsing import Channels

if TYPE_CHECKING:
    from rich.table import Table

    from gradfast.gradcon.study.data import OneClass

app = typer.Typer(
    no_args_is_help=True,
    help="Anomaly detection by the direction of gradients (GradCON): train, score, and the papers' tables.",
)


class Init(str, Enum):
    """What weights are drawn from."""

    torch = "torch"
    he = "he"
    mean = "mean"


class Of(str, Enum):
    """What is averaged in the reference."""

    total = "total"
    reconstruction = "reconstruction"
    direction = "direction"


class Model(str, Enum):
    """Architectures by name."""

    cae = "cae"
    vae = "vae"


class ProfileName(str, Enum):
    """How much a study runs."""

    quick = "quick"
    full = "full"


DataOption = Annotated[
    str,
    typer.Argument(
        help='"digits" (embedded), or labelled images as gradfast extract takes them; resized to 28 x 28.'
    ),
]
TestOption = Annotated[
    str | None, typer.Option(help="Test images, as DATA. Default: a fifth of DATA is kept for the test.")
]
InitOption = Annotated[
    Init,
    typer.Option(
        help="What to begin with: torch, PyTorch's weights, as in the published code; mean, the same with an output as bright as the images, "
        "without which most trainings on dark images collapse; he, He's weights."
    ),
]
ReferenceOption = Annotated[
    Of,
    typer.Option(
        help="Mean of the gradients of: total, the whole loss, as in the published code; reconstruction, the error alone; "
        "direction, the same scaled to length one."
    ),
]
ChannelsOption = Annotated[Channels, typer.Option(help="1 for grey, 3 for RGB.")]


@app.command()
def train(
    data: DataOption = "digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for checkpoints and plots.")] = Path(
        "gradcon"
    ),
    label: Annotated[int, typer.Option(help="The normal class.")] = 0,
    model: Annotated[Model, typer.Option(help="The paper's CAE or VAE.")] = Model.cae,
    test: TestOption = None,
    channels: ChannelsOption = Channels.grey,
    epochs: Annotated[
        int, typer.Option(min=1, help="Total number of epochs; a training already in OUT is continued.")
    ] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    weight: Annotated[
        float, typer.Option(help="Weight of the constraint in the loss; 0 is plain training.")
    ] = 0.03,
    per_image: Annotated[
        bool,
        typer.Option(
            help="Constrain each image's gradient in place of the batch's: higher scores on MNIST, 1.5 to 1.8 times the time."
        ),
    ] = False,
    reference: ReferenceOption = Of.total,
    init: InitOption = Init.torch,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights, batches and draws.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=10, help="Normal training images to use at most. Default: all.")
    ] = None,
    plots: Annotated[
        bool, typer.Option(help="Write reconstructions, histograms, ROC and training curves.")
    ] = True,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train on one class, score the others: AUROC by score, checkpoints, plots."""
    from rich.console import Console
    from rich.progress import Progress

    from gradfast.cli.detection import write_scores
    from gradfast.detectors.metrics import auroc
    from gradfast.gradcon import GradConScorer, GradConTrainer, TrainingSettings
    from gradfast.gradcon.study.cells import make_model
    from gradfast.gradcon.study.scoring import epoch_table, tested_table
    from gradfast.gradcon.training import as_float

    images = _load(data, test, int(channels.value))
    normal_images = images.normal(label, limit, seed)
    trainer = GradConTrainer(
        make_model(model.value.upper(), normal_images.shape[1], seed, init.value, normal_images),
        normal_images,
        TrainingSettings(
            batch_size=batch_size, weight=weight, reference=reference.value, seed=seed, per_image=per_image
        ),
        directory=out,
    )
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(
            f"training on {len(trainer.rows):,} images", total=epochs, completed=len(trainer.history)
        )
        trainer.fit(epochs, lambda epoch: bar.advance(task))
    scorer = GradConScorer(trainer.model, trainer.loss)
    if len(trainer.held_out) > 1:
        scorer = scorer.standardised(trainer.images[trainer.held_out])
    inside, outside = (as_float(x) for x in images.tested(label, seed))
    normal, anomalous = scorer(inside), scorer(outside)
    last = trainer.history[-1]
    print(
        f"{images.name}, class {images.classes[label]}: epoch {last.number}, mean squared error {last.reconstruction:.4f}, "
        f"mean cosine {-last.constraint:.3f}"
    )
    print(f"AUROC on {len(inside)} normal and {len(outside)} anomalous test images:")
    others = anomalous.by_name()
    for name, values in normal.by_name().items():
        print(f"  {name:15} {auroc(values, others[name]):.3f}")
    write_scores(epoch_table(trainer.history, normal.layers), out / "metrics.csv")
    write_scores(tested_table(normal, anomalous, label), out / "scores.csv")
    print(f"checkpoints: {out}/last.safetensors, {out}/best.safetensors")
    print(f"tables: {out}/metrics.csv, {out}/scores.csv")
    if plots:
        from gradfast.gradcon.study.plots import figure_files

        written = figure_files(scorer, trainer.history, inside[:200], outside[:200], out)
        print("plots: " + ", ".join(map(str, written)))


@app.command()
def score(
    checkpoint: Annotated[Path, typer.Argument(help="last.safetensors or best.safetensors of a training.")],
    data: Annotated[
        str, typer.Argument(help='Images to score, as gradfast extract takes them, or "digits".')
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table of the scores: .csv or .parquet.")] = Path(
        "scores.csv"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    weight: Annotated[float, typer.Option(help="Weight of the gradient score in the combined one.")] = 0.12,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many images.")] = None,
    normal: Annotated[
        str | None,
        typer.Option(
            help="Normal images, as DATA: adds the gradient score in deviations of the first 1,000."
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Score images: higher = more anomalous. One row per image."""
    from gradfast.cli.detection import write_scores
    from gradfast.gradcon.study.scoring import score_images

    table = score_images(
        checkpoint, data, batch_size=batch_size, weight=weight, limit=limit, normal=normal, progress=progress
    )
    write_scores(table, out)
    flagged = sum(table["flagged"].to_pylist())
    print(
        f"scored {table.num_rows:,} images"
        + (f", {flagged:,} without a direction (flagged)" if flagged else "")
    )
    print(f"scores: {out}")


@app.command()
def study(
    data: DataOption = "digits",
    name: Annotated[
        str | None,
        typer.Option(
            help='Name of the set in the table; "CIFAR-10" has the paper\'s figures beside it. Default: from DATA.'
        ),
    ] = None,
    test: TestOption = None,
    channels: ChannelsOption = Channels.grey,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for gradcon-NAME.md and .csv.")] = Path(
        "study-gradcon"
    ),
    work: Annotated[
        Path | None, typer.Option(help="Trained models and results are kept there. Default: OUT/work.")
    ] = None,
    profile: Annotated[
        ProfileName, typer.Option(help="quick (minutes) or full (hours).")
    ] = ProfileName.quick,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs, in place of the profile's; more than before trains on.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=10, help="Normal training images, in place of the profile's.")
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Images per step, by default as in the paper; fewer images want smaller batches."
        ),
    ] = 64,
    reference: ReferenceOption = Of.total,
    init: InitOption = Init.torch,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, in place of the profile's.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help='Only this of CAE, CAE+Grad, VAE, VAE+Grad, or "CAE+Grad per image", "VAE+Grad per image"; may be repeated.'
        ),
    ] = None,
    label: Annotated[list[int] | None, typer.Option(help="Only this normal class; may be repeated.")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="A ResNet for a PaDiM-like row, as gradfast extract takes models; not one trained on DATA's classes."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of FEATURES.")] = None,
    plots: Annotated[
        bool, typer.Option(help="Draw the first constrained model, as gradcon train does.")
    ] = True,
) -> None:
    """The tutorial's table: every class in turn is the normal one. Started again, it goes on where it was."""
    from dataclasses import replace

    from rich.console import Console

    from gradfast.cli.parsing import command_line
    from gradfast.errors import InputError
    from gradfast.gradcon.study.cells import MODELS
    from gradfast.gradcon.study.run import PROFILES, draw, run, write
    from gradfast.models import load_model

    chosen = PROFILES[profile.value]
    chosen = replace(
        chosen,
        epochs=epochs or chosen.epochs,
        batch_size=batch_size,
        init=init.value,
        reference=reference.value,
        limit=limit or chosen.limit,
        seeds=tuple(range(seeds)) if seeds else chosen.seeds,
        models=tuple(model) if model else chosen.models,
    )
    unknown = [m for m in chosen.models if m not in MODELS]
    if unknown:
        raise InputError(f"--model: got {', '.join(unknown)}; wanted {', '.join(MODELS)}")
    images = _load(data, test, int(channels.value), name, (work or out / "work") / "cache")
    console = Console(stderr=True)
    network = load_model(features, weights) if features is not None else None
    results = run(
        images, chosen, work or out / "work", label or None,
        lambda line: console.print(line, highlight=False), network,
    )  # fmt: skip
    written = write(images, results, work or out / "work", out, command_line())
    if plots:
        written += draw(images, results, work or out / "work", out)
    Console().print(_averages(images.name, results))
    print("\n".join(map(str, written)))


def _averages(name: str, results: Sequence[dict[str, Any]]) -> Table:
    """What a terminal has room for: a row for each model and score, and no column for each class."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from gradfast.gradcon.study.tables import rows_of, summarise

    table = Table(
        title=f"{escape(name)}, each class normal in turn", title_justify="left", box=box.SIMPLE_HEAD
    )
    for heading in ("model", "score", "average AUROC"):
        table.add_column(heading)
    for row in rows_of(results):
        table.add_row(*row, str(summarise(results, row, None) or "–"))
    return table


def _load(
    data: str, test: str | None, channels: int, name: str | None = None, cache: Path | None = None
) -> OneClass:
    from gradfast.gradcon.study.data import digits, from_spec

    if data == "digits":
        return digits()
    stem = data.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
    return from_spec(name or stem, data, test, channels=channels, cache=cache)
