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
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the detector and its report.")],
    out_dirs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Features of samples that it does not know, one per set; a method that needs none is only tested on them."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="purview, purview-mlp or purview-boosting, which learn from outliers; norm-mahalanobis, norm-mixture, norm-forest or"
            " summed-norms, which need none."
        ),
    ] = "purview",
    head: Annotated[Head | None, typer.Option(help="The classifier H of purview. Default: logistic.")] = None,
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
    """Fit a detector to one part of the samples and test it on the other."""
    from gradfast.cli.detection import fit_and_test

    study = fit_and_test(
        in_dir,
        out_dirs or [],
        out,
        method=method,
        head=None if head is None else head.value,
        layers=layers or None,
        test_fraction=test_fraction,
        splits=splits,
        tpr=tpr,
        seed=seed,
        overwrite=overwrite,
    )
    _show(study)
    if study.report is None:
        print(
            f"{study.accepted:.1%} of the known samples that were not fitted to are accepted; the threshold was set for {tpr:.0%}"
        )
        print(f"detector: {out}")
    else:
        print(f"detector: {out}   report: {study.report}")


@app.command()
def score(
    detector_dir: Annotated[Path, typer.Argument(help="A detector that gradfast detect fit saved.")],
    features_dir: Annotated[Path, typer.Argument(help="Features to score (gradfast extract).")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table of all scores: .csv or .parquet.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="The images that the features are of, as for extract: adds their names to the table.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="With --images, the split that was extracted.")] = "test",
) -> None:
    """Score samples: higher = more out of distribution."""
    from gradfast.cli.detection import score_table, write_scores

    table, threshold = score_table(detector_dir, features_dir, images, split)
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
