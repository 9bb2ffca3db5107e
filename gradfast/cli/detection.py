"""What `gradfast detect` does, from feature directories to detectors, tables and reports."""

from __future__ import annotations

import shlex
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from gradfast.data import ConversionWarning, open_images
from gradfast.data.fingerprint import of_dataset
from gradfast.detectors import Detector, MaximumSoftmax, Purview, evaluate
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
from gradfast.detectors.registry import METHODS, NORMS
from gradfast.detectors.registry import method as method_of
from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.report import NormProfile, detection_page, write_page
from gradfast.report.evaluation import write_outcomes
from gradfast.version import __version__

__all__ = ["Study", "fit_and_test", "score_table", "test_saved", "write_scores"]

_SOFTMAX = "maximum softmax"


@dataclass(frozen=True)
class Study:
    """All outcomes of a test, and where its report is; of a detector that was given no outliers, none and nowhere.

    `accepted`: the share of the known test samples that the detector fitted accepts; None of a saved one.
    """

    outcomes: tuple[Outcome, ...]
    report: Path | None
    accepted: float | None = None


def fit_and_test(
    in_dir: Path,
    out_dirs: Sequence[Path],
    out: Path,
    *,
    method: str = "purview",
    head: str | None = None,
    layers: Sequence[str] | None = None,
    test_fraction: float = 0.5,
    splits: int = 1,
    tpr: float = 0.95,
    seed: int = 0,
    overwrite: bool = False,
) -> Study:
    """Fits a detector of norms to one part of every set, saves it with a report, and tests on the other part.

    With several outlier sets a detector that learns from outliers learns from all of them; how it would do on each without
    having seen its kind is reported beside. One that does not is tested on them, and needs none. The detector saved is that
    of the first split.

    Raises:
        InputError: no such method of norms, no outliers where it learns from them, or sets that do not fit together.
    """
    require_free(out, overwrite)
    make = _maker(method, head, {"tpr": tpr, "random_state": seed})
    learns = make().learns
    if learns and not out_dirs:
        raise InputError(
            f"OUT: got none; wanted features of outliers for {method}, or --method {' or '.join(_one_class())}, which need none"
        )
    inside, outside = _load_sets(in_dir, out_dirs, layers)
    if not outside:
        return _fit_alone(make(), inside, out, test_fraction, seed, overwrite)
    name = _name(make(), inside)
    methods = [Method(name, lambda: make(folds=None), inside, outside, learns=learns)]
    if inside.logits is not None:
        methods.append(Method(_SOFTMAX, MaximumSoftmax, inside, outside, learns=False))
    outcomes = run_protocols(
        methods, test_fraction=test_fraction, seeds=range(seed, seed + splits), pool=True
    )

    fitted, tested = {}, {}
    for label, features in (("", inside), *outside.items()):
        fit_rows, test_rows = halves(len(features), test_fraction, seed)
        fitted[label], tested[label] = features[fit_rows], features[test_rows]
    known = fitted.pop("")
    detector = make().fit(known, concatenate(list(fitted.values())) if learns else None)
    detector.save(out, overwrite=overwrite)
    write_outcomes(outcomes, out)
    accepted = 1 - detector.predict(tested.pop("")).mean()
    caught = {label: detector.predict(features).mean() for label, features in tested.items()}

    what = f"classifier H: {detector.head}" if isinstance(detector, Purview) else _title(detector)
    many = f"; figures are means over {splits} random splits" if splits > 1 else ""
    facts = [
        ("detector", f"{what}, fitted to {detector.n_in_:,} known samples and {detector.n_out_:,} outliers"),
        ("split", f"{test_fraction:.0%} of every set kept for the test, seed {seed}{many}"),
        ("threshold", f"score {detector.threshold_:.4g}, set to accept {tpr:.0%} of known samples;"
         f" on test samples it accepts {accepted:.1%}"),
        ("caught at it", ", ".join(f"{label}: {share:.1%}" for label, share in caught.items())),
        *_facts(in_dir.resolve().name, inside, outside),
    ]  # fmt: skip
    options: dict[str, Sequence[object]] = {
        "--out": [out],
        "--method": [method],
        "--head": [head] if head else [],
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
    return Study(tuple(outcomes), write_page(page, out / "report.html"), float(accepted))


def _fit_alone(
    detector: Detector, inside: Features, out: Path, test_fraction: float, seed: int, overwrite: bool
) -> Study:
    """Without outliers, the known samples that were not fitted to can be tested alone."""
    fit_rows, test_rows = halves(len(inside), test_fraction, seed)
    detector.fit(inside[fit_rows])
    detector.save(out, overwrite=overwrite)
    return Study((), None, float(1 - detector.predict(inside[test_rows]).mean()))


def _maker(name: str, head: str | None, options: Mapping[str, Any]) -> Callable[..., Detector]:
    """Makes an unfitted detector of norms by its name, with those of the options that it has."""
    info = method_of(name.replace("-", "_"))
    if info.reads != NORMS:
        wanted = ", ".join(known for known, other in METHODS.items() if other.reads == NORMS)
        raise InputError(
            f"--method: {info.name} reads {info.reads}, not norms, which is all that features have; wanted one of {wanted}"
        )
    if head is not None and info.name != "purview":
        raise InputError(f"--head: got {head} with --method {info.name}; wanted it with --method purview")

    def make(**more: Any) -> Detector:
        detector = info.make()
        given = {**options, **more, **({} if head is None else {"head": head})}
        known = detector.get_params(deep=False)
        made: Detector = detector.set_params(**{key: value for key, value in given.items() if key in known})
        return made

    return make


def _one_class() -> list[str]:
    return [name for name, info in METHODS.items() if info.reads == NORMS and not info.learns]


def test_saved(detector_dir: Path, in_dir: Path, out_dirs: Sequence[Path], report: Path) -> Study:
    """Tests a saved detector, and maximum softmax beside it, on all samples of the sets."""
    detector = Detector.load(detector_dir)
    inside, outside = _load_sets(in_dir, out_dirs, detector.schema_.layers or None)
    name = _name(detector, inside)
    scorers: list[tuple[str, str, Any]] = [(name, AS_SAVED if detector.learns else NO_OUTLIERS, detector)]
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


def score_table(
    detector_dir: Path, features_dir: Path, images: str | None = None, split: str = "test"
) -> tuple[pa.Table, float]:
    """Scores of all samples with what identifies them, and the detector's threshold.

    Columns: `index`, with ``images`` `name` (where the image is stored), `label`, `prediction` (int64), `flagged` (bool), `score`
    (float64, null if flagged), `out` (bool).

    Raises:
        InputError: ``images`` are not those that the features are of; features of another kind than the detector's.
    """
    detector = Detector.load(detector_dir)
    features = Features.load(features_dir)
    if detector.schema_.layers:
        features = features.select(layers=_known_layers(features, detector.schema_.layers, features_dir))
    scores = detector.score(features)
    columns = {
        "index": features.index,
        **({} if images is None else {"name": _names(features, images, split)}),
        "label": features.labels,
        "prediction": features.predictions,
        "flagged": features.flagged,
        "score": pa.array(scores, from_pandas=True),
        "out": ~(scores <= detector.threshold_),
    }
    return pa.table(columns), detector.threshold_


def _names(features: Features, data: str, split: str) -> list[str]:
    """Where each sample's image is stored: a file below the folder of ``data``, or a file and a row in it."""
    source = features.settings.get("source", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        images = open_images(data, split=split, limit=source.get("samples"))
    if of_dataset(images) != source.get("fingerprint"):
        raise InputError(
            f"--images: {data} is not what these features were extracted from; wanted the same DATA"
        )
    folder = Path(data) if Path(data).is_dir() else Path(data).parent
    return [images.where(i).removeprefix(f"{folder}/") for i in features.index.tolist()]


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


def _name(detector: Detector, features: Features) -> str:
    return f"{_title(detector)}, {features.settings.get('contrast', 'norms')}"


def _title(detector: Detector) -> str:
    """The title of the method that makes such detectors."""

    def kind(one: Detector) -> tuple[type, object]:
        return type(one), getattr(one, "method", None)

    titles = (
        info.title for info in METHODS.values() if info.reads == NORMS and kind(info.make()) == kind(detector)
    )
    return next(titles, type(detector).__name__)


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
