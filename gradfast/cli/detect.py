"""`gradfast detect fit | score | report`: detectors on extracted features."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gradfast.cli.detection import Study

app = typer.Typer(
    no_args_is_help=True, help="Fit a detector to extracted features, score others, report how well it does."
)


class Head(str, Enum):
    """Classifiers H by name."""

    logistic = "logistic"
    mlp = "mlp"
    boosting = "boosting"


InDir = Annotated[Path, typer.Argument(help="Features of samples that the model knows (gradfast extract).")]
OutDirs = Annotated[
    list[Path], typer.Argument(help="Features of samples that it does not know, one per set.")
]


@app.command()
def fit(
    in_dir: InDir,
    out_dirs: OutDirs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the detector and its report.")],
    head: Annotated[Head, typer.Option(help="The classifier H of the norms.")] = Head.logistic,
    layers: Annotated[
        list[str] | None, typer.Option(help="Only these: names, prefixes or globs; may be repeated.")
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Share of each set held out to test the classifier.")
    ] = 0.5,
    splits: Annotated[
        int, typer.Option(min=1, help="Random splits to test on; the detector saved is the first one's.")
    ] = 1,
    tpr: Annotated[float, typer.Option(help="Share of known samples that the threshold accepts.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the splits and of the classifier.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a detector that is there.")] = False,
) -> None:
    """Fit a Purview detector to one part of the samples and test it on the other."""
    from gradfast.cli.detection import fit_and_test

    study = fit_and_test(
        in_dir,
        out_dirs,
        out,
        head=head.value,
        layers=layers or None,
        test_fraction=test_fraction,
        splits=splits,
        tpr=tpr,
        seed=seed,
        overwrite=overwrite,
    )
    _show(study)
    print(f"detector: {out}   report: {study.report}")


@app.command()
def score(
    detector_dir: Annotated[Path, typer.Argument(help="A detector that gradfast detect fit saved.")],
    features_dir: Annotated[Path, typer.Argument(help="Features to score (gradfast extract).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table of all scores: .csv or .parquet.")
    ] = None,
) -> None:
    """Score samples: higher = more out of distribution."""
    from gradfast.cli.detection import score_table, write_scores

    table, threshold = score_table(detector_dir, features_dir)
    if out is not None:
        write_scores(table, out)
    n, outside = table.num_rows, sum(table["out"].to_pylist())
    flagged = sum(table["flagged"].to_pylist())
    print(
        f"{outside:,} of {n:,} samples ({outside / n:.1%}) are out of distribution: score above {threshold:.4g}"
    )
    if flagged:
        print(f"{flagged:,} of them are flagged, have no score and count as out")
    if out is not None:
        print(f"scores: {out}")


@app.command()
def report(
    detector_dir: Annotated[Path, typer.Argument(help="A detector that gradfast detect fit saved.")],
    in_dir: InDir,
    out_dirs: OutDirs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Test a saved detector on features that it has not seen."""
    from gradfast.cli.detection import test_saved

    study = test_saved(detector_dir, in_dir, out_dirs, out)
    _show(study)
    print(f"report: {study.report}")


def _show(study: Study) -> None:
    from rich.console import Console

    from gradfast.report import protocol_tables, rich_table

    console = Console()
    for table in protocol_tables(study.outcomes):
        console.print(rich_table(table))
        for note in table.notes:
            console.print(note, style="dim", highlight=False)
        console.print()
