"""What `gradfast detect` does, from feature directories to detectors, tables and reports."""

from __future__ import annotations

import shlex
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from gradfast.detectors import MaximumSoftmax, Purview, evaluate
from gradfast.detectors.evaluation import (
    AS_SAVED,
    NO_OUTLIERS,
    Method,
    Outcome,
    concatenate,
    finite,
    halves,
    run_protocols,
)
from gradfast.detectors.inputs import schema_of
from gradfast.detectors.persistence import require_free
from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.report import NormProfile, detection_page, write_page
from gradfast.report.evaluation import write_outcomes
from gradfast.version import __version__

__all__ = ["Study", "fit_and_test", "score_table", "test_saved", "write_scores"]

_SOFTMAX = "maximum softmax"


@dataclass(frozen=True)
class Study:
    """All outcomes of a test, and where its report is."""

    outcomes: tuple[Outcome, ...]
    report: Path


def fit_and_test(
    in_dir: Path,
    out_dirs: Sequence[Path],
    out: Path,
    *,
    head: str = "logistic",
    layers: Sequence[str] | None = None,
    test_fraction: float = 0.5,
    splits: int = 1,
    tpr: float = 0.95,
    seed: int = 0,
    overwrite: bool = False,
) -> Study:
    """Fits a Purview detector to one part of every set, saves it with a report, and tests on the other part.

    With several outlier sets the detector learns from all of them; how it would do on each without having
    seen its kind is reported beside. The detector saved is that of the first split.
    """
    require_free(out, overwrite)
    inside, outside = _load_sets(in_dir, out_dirs, layers)
    make = partial(Purview, head, tpr=tpr, random_state=seed)
    name = _purview_name(inside)
    methods = [Method(name, partial(make, folds=None), inside, outside)]
    if inside.logits is not None:
        methods.append(Method(_SOFTMAX, MaximumSoftmax, inside, outside, learns=False))
    outcomes = run_protocols(
        methods, test_fraction=test_fraction, seeds=range(seed, seed + splits), pool=True
    )

    fitted, tested = {}, {}
    for label, features in (("", inside), *outside.items()):
        fit_rows, test_rows = halves(len(features), test_fraction, seed)
        fitted[label], tested[label] = features[fit_rows], features[test_rows]
    detector = make().fit(fitted.pop(""), concatenate(list(fitted.values())))
    detector.save(out, overwrite=overwrite)
    write_outcomes(outcomes, out)
    accepted = 1 - detector.predict(tested.pop("")).mean()
    caught = {label: detector.predict(features).mean() for label, features in tested.items()}

    many = f"; figures are means over {splits} random splits" if splits > 1 else ""
    facts = [
        ("classifier H", f"{head}, fitted to {detector.n_in_:,} known samples and {detector.n_out_:,} outliers"),
        ("split", f"{test_fraction:.0%} of every set kept for the test, seed {seed}{many}"),
        ("threshold", f"score {detector.threshold_:.4g}, set by cross-validation to accept {tpr:.0%} of known samples;"
         f" on test samples it accepts {accepted:.1%}"),
        ("caught at it", ", ".join(f"{label}: {share:.1%}" for label, share in caught.items())),
        *_facts(in_dir.resolve().name, inside, outside),
    ]  # fmt: skip
    options: dict[str, Sequence[object]] = {
        "--out": [out],
        "--head": [head],
        "--layers": layers or [],
        "--test-fraction": [test_fraction],
    }
    options |= {"--splits": [splits], "--tpr": [tpr], "--seed": [seed]}
    page = detection_page(
        f"{in_dir.resolve().name} against {', '.join(outside)}",
        [],
        outcomes,
        _profile(in_dir.resolve().name, inside, outside),
        shown_method=name,
        facts=facts,
        command=_command("fit", [in_dir, *out_dirs], options),
    )
    return Study(tuple(outcomes), write_page(page, out / "report.html"))


def test_saved(detector_dir: Path, in_dir: Path, out_dirs: Sequence[Path], report: Path) -> Study:
    """Tests a saved detector, and maximum softmax beside it, on all samples of the sets."""
    detector = Purview.load(detector_dir)
    inside, outside = _load_sets(in_dir, out_dirs, detector.schema_.layers or None)
    name = _purview_name(inside)
    scorers: list[tuple[str, str, Any]] = [(name, AS_SAVED, detector)]
    if inside.logits is not None:
        scorers.append((_SOFTMAX, NO_OUTLIERS, MaximumSoftmax()))
    outcomes = []
    for method, protocol, scorer in scorers:
        scores_in = finite(scorer.score(inside))
        for label, features in outside.items():
            scores_out = finite(scorer.score(features))
            metrics = evaluate(scores_in, scores_out)
            outcomes.append(Outcome(method, label, protocol, (metrics,), scores_in, scores_out))
    page = detection_page(
        f"{detector_dir.resolve().name}: {in_dir.resolve().name} against {', '.join(outside)}",
        [],
        outcomes,
        _profile(in_dir.resolve().name, inside, outside),
        shown_method=name,
        facts=[
            (
                "detector",
                f"{detector_dir}, fitted to {detector.n_in_:,} known samples and {detector.n_out_:,} outliers",
            ),
            *_facts(in_dir.resolve().name, inside, outside),
        ],
        command=_command("report", [detector_dir, in_dir, *out_dirs], {"--out": [report]}),
    )
    return Study(tuple(outcomes), write_page(page, report))


def score_table(detector_dir: Path, features_dir: Path) -> tuple[pa.Table, float]:
    """Scores of all samples with what identifies them, and the detector's threshold.

    Columns: `index`, `label`, `prediction` (int64), `flagged` (bool), `score` (float64, null if flagged),
    `out` (bool).
    """
    detector = Purview.load(detector_dir)
    features = Features.load(features_dir)
    if detector.schema_.layers:
        features = features.select(layers=_known_layers(features, detector.schema_.layers, features_dir))
    scores = detector.score(features)
    columns = {
        "index": features.index,
        "label": features.labels,
        "prediction": features.predictions,
        "flagged": features.flagged,
        "score": pa.array(scores, from_pandas=True),
        "out": ~(scores <= detector.threshold_),
    }
    return pa.table(columns), detector.threshold_


def write_scores(table: pa.Table, path: Path) -> None:
    """Writes a table as .csv or .parquet, whole or not at all."""
    writers = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}
    if path.suffix not in writers:
        raise InputError(f"--out: got {path}, wanted a name that ends in {' or '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        writers[path.suffix](table, written)
        written.replace(path)


def _command(name: str, arguments: Sequence[object], options: Mapping[str, Sequence[object]]) -> str:
    """The command line that does this again."""
    given = [(option, value) for option, values in options.items() for value in values]
    words = ["gradfast", "detect", name, *arguments, *(word for pair in given for word in pair)]
    return shlex.join(map(str, words))


def _load_sets(
    in_dir: Path, out_dirs: Sequence[Path], layers: Sequence[str] | None
) -> tuple[Features, dict[str, Features]]:
    """The features of all sets, checked to be comparable; outlier sets by the names of their directories."""
    in_dir, *out_dirs = [directory.resolve() for directory in (in_dir, *out_dirs)]
    loaded = {}
    for directory in (in_dir, *out_dirs):
        features = Features.load(directory)
        if layers is not None:
            features = features.select(layers=_known_layers(features, layers, directory))
        loaded[directory] = features
    inside = loaded[in_dir]
    if len(loaded) < 1 + len(out_dirs):
        raise InputError("directories: got the same one twice, wanted one per set")
    outside = {}
    for directory in out_dirs:
        name = directory.name if directory.name not in outside else str(directory)
        outside[name] = loaded[directory]
        schema_of(inside).require(schema_of(loaded[directory]), str(directory), f"differs from {in_dir}")
        differing = _differing_preparation(inside, loaded[directory])
        if differing:
            warnings.warn(
                f"{directory}: images were prepared in another way than those of {in_dir} ({differing});"
                " a detector can tell the sets apart by that alone",
                stacklevel=2,
            )
    return inside, outside


def _known_layers(features: Features, wanted: Sequence[str], directory: Path) -> list[str]:
    """`wanted`, checked; exact names that are missing are the directory's fault, not the user's."""
    try:
        features.select(layers=list(wanted))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    return list(wanted)


def _differing_preparation(a: Features, b: Features) -> str:
    """What differs in how images became tensors, apart from a JPEG pass, which can make sets alike."""
    ours, theirs = (f.settings.get("source", {}).get("preprocess", {}) for f in (a, b))
    keys = [key for key in ours if key != "jpeg_quality" and key in theirs and ours[key] != theirs[key]]
    return "; ".join(f"{key} {theirs[key]}, not {ours[key]}" for key in keys)


def _purview_name(features: Features) -> str:
    return f"Purview, {features.settings.get('contrast', 'norms')}"


def _profile(name: str, inside: Features, outside: dict[str, Features]) -> NormProfile:
    rows = inside.shape[1]
    what = f"The {inside.settings.get('contrast', 'given')} contrast" + (
        f", mean of {rows} rows" if rows > 1 else ""
    )
    # At most so many samples: quartiles do not get better, and features may be larger than memory.
    sets = {label: features[:5000].values for label, features in ((name, inside), *outside.items())}
    return NormProfile.of(what, inside.layers, name, sets)


def _facts(name: str, inside: Features, outside: dict[str, Features]) -> list[tuple[str, str]]:
    sizes = [f"{label}: {len(f):,}" for label, f in ((f"{name} (in)", inside), *outside.items())]
    flagged = int(inside.flagged.sum() + np.sum([f.flagged.sum() for f in outside.values()]))
    settings = inside.settings
    return [
        ("samples", ", ".join(sizes) + (f"; {flagged} flagged, left out" if flagged else "")),
        ("features", f"squared gradient norms of {len(inside.layers)} parameter tensors x {inside.shape[1]} contrast"
         f" rows; contrast {settings.get('contrast', '?')}, loss {settings.get('loss', '?')}"),
        ("model", f"{settings.get('model', '?')}, fingerprint {str(settings.get('model_fingerprint', '?'))[:16]}"),
        ("version", f"gradfast {__version__}"),
    ]  # fmt: skip
