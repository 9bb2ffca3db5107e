"""Out-of-distribution detection: every outlier set against the in-distribution set, under two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradfast.errors import InputError
from gradfast.features import Features
from gradfast.report.figures import NormProfile
from gradfast.studies.catalogue import MissingSetError
from gradfast.studies.columns import Columns
from gradfast.studies.curves import add_curves
from gradfast.studies.images import Images, Recipe, compressed, read_images
from gradfast.studies.methods import MethodEntry
from gradfast.studies.paper import paper_figure
from gradfast.studies.protocols import Group, Pairing, Tested
from gradfast.studies.remember import remembered_run
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_SET, Result, metric_estimates
from gradfast.studies.workbench import Subject, limited

__all__ = ["add_norm_profile", "fill_ood", "group_of", "record"]

# The paper's AUPR has no side: it is put beside the one with outliers as the positives, which fits its unequal sets.
_PAPER_METRICS = {"auroc": "auroc", "detection_accuracy": "detection_accuracy", "aupr_out": "aupr"}
_CONTROL_IMAGES = 400
_OTHER_QUALITY = 50


def fill_ood(subject: Subject) -> None:
    """All rows of one model."""
    bench, entry = subject.bench, subject.entry
    inside = subject.images(subject.inside)
    within = group_of(inside, subject.columns(inside))
    pairings = []
    for name in bench.study.outside.get(entry.inside, ()):
        try:
            images = subject.images(bench.locate(name))
        except MissingSetError as error:
            bench.blank(entry, name, "", error)
            continue
        pairings.append(Pairing(name, within, group_of(images, subject.columns(images))))
    if not pairings:
        return
    add_norm_profile(subject, entry.inside, within.columns, pairings)
    for method in subject.methods:
        bench.settings.say(f"{entry.name}: fitting and testing {method.title}")
        for pairing in pairings:
            others = [other for other in pairings if other is not pairing]
            if not method.learns:
                _row(subject, method, pairing, [pairing], NO_OUTLIERS)
                continue
            _row(subject, method, pairing, [pairing], SAME_SET)
            if others:
                _row(subject, method, pairing, others, LEFT_OUT)
    add_curves(subject, pairings[:1])
    for control in _controls(subject, inside):
        for method in subject.methods:
            _row(subject, method, control, [control], CONTROL)


def group_of(images: Images, columns: Mapping[str, Columns]) -> Group:
    """All images of a set as a group, their own pool."""
    return Group(columns, np.arange(len(images)), len(images))


def add_norm_profile(
    subject: Subject, inside: str, columns: Mapping[str, Columns], pairings: Sequence[Pairing]
) -> None:
    """Adds the norms layer by layer: of the all-ones contrast if it was read, and none where no method reads norms."""
    contrast = next((name for name in ("all-ones", "one-hot") if name in columns), None)
    if contrast is None:
        return
    groups = {inside: columns, **{pairing.name: pairing.outside.columns for pairing in pairings}}
    features = {name: of[contrast] for name, of in groups.items()}
    known = features[inside]
    assert isinstance(known, Features)
    profile = NormProfile.of(
        f"The {contrast} contrast",
        known.layers,
        inside,
        {name: of[:5000].values for name, of in features.items()},
    )
    subject.bench.found.norms.append((subject.entry.name, profile))


def record(
    subject: Subject,
    method: MethodEntry,
    tested: Tested,
    protocol: str,
    *,
    paper: Mapping[str, float] | None = None,
    outside: str | None = None,
    level: int = 0,
) -> Result:
    """Adds a result."""
    result = Result(
        subject.entry.name, subject.entry.inside, outside or tested.outcome.out_set, level, protocol, method.name,
        metric_estimates(tested.outcome), (tested.fit_in, tested.fit_out, tested.test_in, tested.test_out),
        tested.scoreless, paper or {}, tested.outcome,
    )  # fmt: skip
    subject.bench.found.results.append(result)
    return result


def _row(
    subject: Subject, method: MethodEntry, pairing: Pairing, learned: Sequence[Pairing], protocol: str
) -> None:
    bench = subject.bench
    try:
        (tested,) = remembered_run(bench.cache, method, [pairing], learned, protocol, bench.seeds)
    except InputError as error:
        bench.blank(subject.entry, pairing.name, method.name, error)
        return
    record(
        subject,
        method,
        tested,
        protocol,
        paper={} if protocol == CONTROL else _paper(subject, pairing.name, method),
    )


def _paper(subject: Subject, outside: str, method: MethodEntry) -> dict[str, float]:
    sets = subject.bench.study.sets
    inside, out = sets[subject.entry.inside].paper, sets[outside].paper
    found = {
        ours: paper_figure("ood", inside=inside, outside=out, method=method.paper, metric=theirs)
        for ours, theirs in _PAPER_METRICS.items()
    }
    return {metric: value for metric, value in found.items() if value is not None}


def _controls(subject: Subject, inside: Images) -> list[Pairing]:
    """Known images that were compressed otherwise, and the first outlier set that can be had without compression."""
    if subject.recipe.jpeg is None:
        return []
    known = limited(inside, _CONTROL_IMAGES, f"{inside.name}, known")
    again = replace(
        known,
        name=f"{inside.name} through JPEG {_OTHER_QUALITY}",
        pixels=compressed(known.pixels, _OTHER_QUALITY),
    )
    within = group_of(known, subject.columns(known))
    pairings = [Pairing(again.name, within, group_of(again, subject.columns(again)))]
    for name in subject.bench.study.outside.get(subject.entry.inside, ()):
        raw = _uncompressed(subject, name)
        if raw is not None:
            pairings.append(Pairing(raw.name, within, group_of(raw, subject.columns(raw))))
            break
    return pairings


def _uncompressed(subject: Subject, name: str) -> Images | None:
    """A set as it is without the JPEG pass; None if it is not there, made up, or is JPEG itself."""
    bench = subject.bench
    try:
        located = bench.locate(name)
    except MissingSetError:
        return None
    if located.source is None:
        return None
    plain = Recipe(subject.recipe.size, subject.recipe.channels)
    most = min(_CONTROL_IMAGES, bench.profile.limit(subject.entry.name, name))
    seed = bench.settings.seed
    ours = read_images(located, subject.recipe, limit=most, seed=seed, cache=bench.cache)
    raw = read_images(
        located, plain, limit=most, seed=seed, cache=bench.cache, name=f"{name}, not compressed"
    )
    return None if np.array_equal(ours.pixels, raw.pixels) else raw
