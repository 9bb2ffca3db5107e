"""`gradfast study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gradfast.studies import StudyResult


def study(
    declaration: Annotated[
        str,
        typer.Argument(
            help="ood, tiny-imagenet, adversarial, corruption, ablation, or a .toml file with models and sets of your own."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory for NAME.csv, .md and .html. Default: study-NAME."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with the sets and weights under their usual names; may be repeated. Default: data."
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=SOURCE of a set, as extract takes it; may be repeated.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of a model's weights; may be repeated.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--set", help="Only this outlier set, attack or corruption; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="This method in place of the study's own, such as purview-mlp; may be repeated."),
    ] = None,
    profile: Annotated[str, typer.Option(help="quick (minutes) or full.")] = "quick",
    images: Annotated[
        int | None, typer.Option(min=4, help="Images per set, in place of the profile's.")
    ] = None,
    splits: Annotated[
        int | None, typer.Option(min=1, help="Number of random halves, in place of the profile's.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of draws, attacks, corruptions and splits.")
    ] = 0,
    jpeg: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Quality to store all images at. Default: that of the in-distribution files."
        ),
    ] = None,
    cache: Annotated[Path, typer.Option(help="What is computed is kept there, and taken from there.")] = Path(
        "gradfast-cache"
    ),
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Run a table of the papers, or your own: models x sets x methods, beside the papers' figures. Started again, it goes on."""
    from dataclasses import replace

    from rich.console import Console
    from rich.markup import escape

    from gradfast.cli.parsing import command_line, pairs
    from gradfast.errors import InputError
    from gradfast.studies import BUILTIN, Settings, narrowed, read_declaration, run_study
    from gradfast.studies.write import write_results

    if declaration in BUILTIN:
        declared = BUILTIN[declaration]
    elif declaration.endswith(".toml"):
        declared = read_declaration(Path(declaration))
    else:
        raise InputError(f"study: got {declaration!r}; wanted {', '.join(BUILTIN)} or a .toml file")
    if profile not in declared.profiles:
        raise InputError(f"--profile: got {profile!r}; wanted {' or '.join(declared.profiles)}")
    size = declared.profiles[profile]
    if model:
        size = replace(size, models=None)
    if images is not None:
        size = replace(size, images=images, set_images={}, model_images={})
    if splits is not None:
        size = replace(size, splits=splits)
    console = Console(stderr=True)
    settings = Settings(
        roots=tuple(root or [Path("data")]),
        data=pairs("--data", data or []),
        weights={name: Path(path) for name, path in pairs("--weights", weights or []).items()},
        cache=cache,
        seed=seed,
        jpeg=jpeg,
        progress=progress,
        say=lambda line: console.print(f"[green]•[/] {escape(line)}", highlight=False),
    )
    wanted = narrowed(declared, models=model or (), sets=only or (), methods=method or ())
    found = run_study(wanted, size, settings)
    if not found.results:
        raise InputError(
            f"study: nothing of {wanted.name} was measured, for the reasons above; nothing is written"
        )
    folder = out or Path(f"study-{wanted.name}")
    written = write_results(found, folder, command_line())
    _show(found)
    print("\n".join(map(str, written)))


def _show(found: StudyResult) -> None:
    from rich.console import Console
    from rich.markup import escape

    from gradfast.report import rich_tables
    from gradfast.studies.tables import control_table, summary_tables
    from gradfast.studies.verdict import verdict

    console = Console()
    for table in [*summary_tables(found), control_table(found)]:
        if table is not None:
            for part in rich_tables(table):
                console.print(part)
            console.print("\n".join(map(escape, table.notes)), style="dim", highlight=False)
            console.print()
    if found.blanks:
        what = dict.fromkeys(", ".join(filter(None, (b.model, b.outside, b.method))) for b in found.blanks)
        console.print(
            f"left blank, for the reasons above: {escape('; '.join(what))}", style="yellow", highlight=False
        )
    console.print()
    for answer in verdict(found):
        console.print(f"[bold]{escape(answer.model)}[/]", highlight=False)
        for sentence in answer.sentences:
            console.print(f"- {escape(sentence)}", highlight=False)
        console.print()
