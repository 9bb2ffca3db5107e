"""Detection of corrupted images, level by level, and whether a score grows with the level.

Samples in are the clean images; clean and corrupted ones have been through the same compression, once more than the
file's, so that no detector tells them apart by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from gradfast.corruptions import CORRUPTIONS, corrupt
from gradfast.errors import InputError
from gradfast.studies.cache import Arrays
from gradfast.studies.catalogue import Located, MissingSetError, SetEntry
from gradfast.studies.curves import add_curves
from gradfast.studies.images import Images, compressed, read_images
from gradfast.studies.methods import MethodEntry
from gradfast.studies.ood import add_norm_profile, group_of, record
from gradfast.studies.paper import paper_level
from gradfast.studies.protocols import Pairing, fitted_scorer, tested_scores
from gradfast.studies.remember import remembered, remembered_run
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, Result
from gradfast.studies.statistics import estimate, spearman
from gradfast.studies.workbench import Subject

__all__ = ["fill_corruption", "published_source"]

# What the published sets call the corruptions.
_CURE_TSR = {kind: kind for kind in CORRUPTIONS} | {"decolor": "decolorization"}
_CIFAR_C = {
    "noise": "gaussian_noise", "lens_blur": "defocus_blur", "gaussian_blur": "gaussian_blur", "exposure": "brightness",
    "snow": "snow", "haze": "fog",
}  # fmt: skip


def fill_corruption(subject: Subject) -> None:
    """All rows of one model."""
    bench, entry = subject.bench, subject.entry
    stored = subject.images(subject.inside)
    quality = subject.recipe.jpeg
    clean = replace(stored, pixels=compressed(stored.pixels, quality)) if quality else stored
    within = group_of(clean, subject.columns(clean))
    published = published_source(subject)
    kinds: dict[str, list[Pairing]] = {}
    for kind in bench.study.corruptions:
        found, strengths = [], []
        source = None if published is None else published.get(kind)
        for level in bench.study.levels:
            if source is None:
                images = _corrupted(subject, stored, kind, level, quality)
            else:
                images = _published(subject, stored, f"{source}:{level}", f"{kind} {level}", quality)
            strengths.append(255 * float(np.sqrt(np.mean((images.pixels - clean.pixels) ** 2))))
            found.append(Pairing(images.name, within, group_of(images, subject.columns(images))))
        kinds[kind] = found
        said = ", ".join(f"{strength:.1f}" for strength in strengths)
        bench.found.facts.append(
            (
                f"{entry.name}, {kind}, strength",
                f"root mean square change of a pixel by level, of 255: {said}",
            )
        )
        if source is not None:
            bench.found.facts.append(
                (f"{entry.name}, {kind}", f"as published: {source.split(':', 1)[0]}, {source.split(':')[-1]}")
            )
            continue
        about = CORRUPTIONS[kind]
        bench.found.facts.append(
            (kind, f"{about.parameter}: {', '.join(f'{v:g}' for v in about.levels)}; {about.source}")
        )
    strongest = [Pairing(kind, pairings[-1].inside, pairings[-1].outside) for kind, pairings in kinds.items()]
    add_norm_profile(subject, clean.name, within.columns, strongest)
    controls = []
    if quality is not None:
        plain = replace(stored, name="not corrupted, one JPEG pass fewer")
        controls.append(Pairing(plain.name, within, group_of(plain, subject.columns(plain))))
        for kind in bench.study.corruptions:
            if published is None or kind not in published:
                raw = _corrupted(subject, stored, kind, bench.study.levels[0], None)
                raw = replace(raw, name=f"{raw.name}, not compressed")
                controls.append(Pairing(raw.name, within, group_of(raw, subject.columns(raw))))
    for method in subject.methods:
        bench.settings.say(f"{entry.name}: fitting and testing {method.title}")
        for kind, pairings in kinds.items():
            others = [pairing for other, found in kinds.items() if other != kind for pairing in found]
            if not method.learns:
                _levels(subject, method, kind, pairings, pairings, NO_OUTLIERS)
                continue
            for pairing, level in zip(pairings, bench.study.levels, strict=True):
                _cells(subject, method, kind, [pairing], [level], [pairing], SAME_SET)
            _levels(subject, method, kind, pairings, pairings, SAME_KIND)
            if others:
                _levels(subject, method, kind, pairings, others, LEFT_OUT)
        for control in controls:
            _cells(subject, method, control.name, [control], [0], [control], CONTROL)
    add_curves(subject, [found[0] for found in kinds.values()])


def published_source(subject: Subject) -> dict[str, str] | None:
    """Sources of the corruptions as published, by kind, to which a level is added; None if there are none.

    CURE-TSR's are used with CURE-TSR; CIFAR-10-C's with CIFAR-10, where it is on disk and a corruption has a counterpart.
    """
    inside = subject.entry.inside
    if inside == "cure-tsr":
        source = subject.inside.source or ""
        root = source.removeprefix("curetsr:").removesuffix(":none")
        return {kind: f"curetsr:{root}:{theirs}" for kind, theirs in _CURE_TSR.items()}
    if inside == "cifar10" and "cifar10-c" in subject.bench.study.sets:
        try:
            root = subject.bench.locate("cifar10-c").source or ""
        except MissingSetError:
            return None
        return {kind: f"cifar10c:{root}:{theirs}" for kind, theirs in _CIFAR_C.items()}
    return None


def _published(subject: Subject, stored: Images, source: str, name: str, quality: int | None) -> Images:
    """The same images of a published set, compressed as often as the clean ones; its order must be that of theirs."""
    bench = subject.bench
    located = Located(SetEntry(name), source)
    images = read_images(
        located, subject.recipe, limit=len(stored), seed=bench.settings.seed, cache=bench.cache, name=name
    )
    if not (np.array_equal(images.index, stored.index) and np.array_equal(images.labels, stored.labels)):
        raise InputError(
            f"{source}: is not of the images of {stored.name} in their order; wanted the same number and the same labels"
        )
    return replace(images, pixels=compressed(images.pixels, quality)) if quality else images


def _corrupted(subject: Subject, stored: Images, kind: str, level: int, quality: int | None) -> Images:
    pixels = corrupt(
        torch.from_numpy(stored.pixels), kind, level, seed=subject.bench.settings.seed,
        index=torch.from_numpy(stored.index),
    ).numpy()  # fmt: skip
    return replace(stored, name=f"{kind} {level}", pixels=compressed(pixels, quality))


def _levels(
    subject: Subject,
    method: MethodEntry,
    kind: str,
    tested: Sequence[Pairing],
    learned: Sequence[Pairing],
    protocol: str,
) -> None:
    """One fit tested at every level, and its score's rank correlation with the level."""
    levels = subject.bench.study.levels
    if not _cells(subject, method, kind, tested, levels, learned, protocol) or len(levels) < 2:
        return
    bench = subject.bench

    def correlations() -> Arrays:
        found = []
        for seed in bench.seeds:
            scorer, _, _ = fitted_scorer(method, learned, seed)
            scores = [tested_scores(method, scorer, pairing.outside, seed) for pairing in tested]
            joined, numbers = np.concatenate(scores), np.repeat(levels, [len(s) for s in scores])
            found.append(spearman(joined[~np.isnan(joined)], numbers[~np.isnan(joined)]))
        return {"spearman": np.array(found)}

    what = f"spearman, {protocol}, {list(levels)}"
    found = remembered(bench.cache, what, method, [tested, learned], bench.seeds, correlations)[
        "spearman"
    ].tolist()
    subject.bench.found.results.append(
        Result(subject.entry.name, subject.entry.inside, kind, 0, protocol, method.name,
               {"spearman": estimate(found)}, (0, 0, 0, 0))
    )  # fmt: skip


def _cells(
    subject: Subject,
    method: MethodEntry,
    kind: str,
    tested: Sequence[Pairing],
    levels: Sequence[int],
    learned: Sequence[Pairing],
    protocol: str,
) -> bool:
    bench, entry = subject.bench, subject.entry
    try:
        found = remembered_run(bench.cache, method, tested, learned, protocol, bench.seeds)
    except InputError as error:
        bench.blank(entry, kind, method.name, error)
        return False
    for one, level in zip(found, levels, strict=True):
        figure = paper_level(bench.study, entry, kind, level, method.name)
        paper = {} if figure is None or protocol == CONTROL else {"auroc": figure}
        record(subject, method, one, protocol, paper=paper, outside=kind, level=level)
    return True
