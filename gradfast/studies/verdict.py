"""What a study's figures say, in sentences: which detector to use, and where gradients do not help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradfast.studies.methods import METHODS
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, Result, StudyResult
from gradfast.studies.statistics import Estimate, estimate

__all__ = ["Answer", "difference", "verdict"]

_GRADIENT = ("purview-one-hot", "purview-all-ones")
_FREE = "penultimate"


@dataclass(frozen=True)
class Answer:
    """What the figures of one model say, a sentence each."""

    model: str
    sentences: tuple[str, ...]


def verdict(found: StudyResult) -> list[Answer]:
    """An answer per model that was run; one that says so if none was."""
    answers = []
    for model in found.study.models:
        results = [r for r in found.chosen(model=model.name) if r.protocol != CONTROL and "auroc" in r.values]
        if results:
            answers.append(Answer(model.name, tuple(_of_model(found, model.name, results))))
    nothing = "Nothing was measured: no model and images of this study are on disk; see what is left blank."
    return answers or [Answer("", (nothing,))]


def difference(first: Result, second: Result) -> Estimate:
    """Mean and interval of the difference in AUROC of two methods on the same splits."""
    assert first.outcome is not None
    assert second.outcome is not None
    pairs = zip(first.outcome.splits, second.outcome.splits, strict=True)
    return estimate([a.auroc - b.auroc for a, b in pairs])


def _of_model(found: StudyResult, model: str, results: Sequence[Result]) -> Iterable[str]:
    kind = found.study.kind
    things = {"adversarial": "attack", "corruption": "corruption"}.get(kind, "outlier set")
    if _has(results, SAME_SET):
        yield f"With examples of what is to be found: {_choice(results, (SAME_SET,), things)}."
    if _has(results, LEFT_OUT):
        yield (
            f"For a kind that nobody thought of, and examples of others: {_choice(results, (LEFT_OUT, NO_OUTLIERS), things)}."
        )
    if _has(results, NO_OUTLIERS):
        yield f"Without any examples: {_choice(results, (NO_OUTLIERS,), things)}."
    yield from _against_free(results)
    if kind == "corruption":
        yield from _rank_sentence(found, model)


def _choice(results: Sequence[Result], protocols: Sequence[str], things: str) -> str:
    """The best method, its worst set, and what is as good within the interval."""
    ranked = _ranked(results, protocols)
    name, mean = ranked[0]
    own = [r for r in results if r.method == name and r.protocol in protocols]
    worst = min(own, key=lambda r: r.auroc)
    count = len({r.outside for r in own})
    level = f" at level {worst.level}" if worst.level else ""
    said = f"use {METHODS[name].title}, mean AUROC {mean:.3f}"
    if count > 1:
        said += f" over {count} {things}s, worst {worst.auroc:.3f} ({worst.outside}{level})"
    equal = [other for other, _ in ranked[1:] if not _beats(results, protocols, name, other)]
    if equal:
        said += f"; as good within the interval: {', '.join(METHODS[other].title for other in equal)}"
    return said


def _beats(results: Sequence[Result], protocols: Sequence[str], first: str, second: str) -> bool:
    """Whether the mean AUROC over all sets differs by more than its interval, on the same splits."""
    areas = []
    for method in (first, second):
        own = {(r.outside, r.level): r for r in results if r.method == method and r.protocol in protocols}
        rows = [[s.auroc for s in own[key].outcome.splits] for key in sorted(own)]  # type: ignore[union-attr]
        areas.append([sum(split) / len(split) for split in zip(*rows, strict=True)])
    gap = estimate([a - b for a, b in zip(*areas, strict=True)])
    return gap.mean > gap.half_width  # False for a single split, which has no interval


def _has(results: Sequence[Result], protocol: str) -> bool:
    return any(r.protocol == protocol for r in results)


def _ranked(results: Sequence[Result], protocols: Sequence[str]) -> list[tuple[str, float]]:
    """Methods by their mean AUROC over all sets, best first; those that lack a set that others have come last."""
    areas: dict[str, list[float]] = {}
    for r in results:
        if r.protocol in protocols and not math.isnan(r.auroc):
            areas.setdefault(r.method, []).append(r.auroc)
    most = max((len(found) for found in areas.values()), default=0)
    full = {name: sum(found) / len(found) for name, found in areas.items() if len(found) == most}
    return sorted(full.items(), key=lambda item: -item[1])


def _against_free(results: Sequence[Result]) -> Iterable[str]:
    """Where gradient norms beat features without gradients under the same kind of H, and where they do not."""
    for protocol, what in (
        (SAME_SET, "with the tested kind seen"),
        (LEFT_OUT, "with the tested kind left out"),
    ):
        ranked = [name for name, _ in _ranked(results, (protocol,)) if name in _GRADIENT]
        if not ranked:
            continue
        ours = {(r.outside, r.level): r for r in results if (r.method, r.protocol) == (ranked[0], protocol)}
        free = {(r.outside, r.level): r for r in results if (r.method, r.protocol) == (_FREE, protocol)}
        shared = [key for key in ours if key in free and len(ours[key].outcome.splits) > 1]  # type: ignore[union-attr]
        if not shared:
            continue
        gaps = {key: difference(ours[key], free[key]) for key in shared}
        better = [key for key, gap in gaps.items() if gap.mean > gap.half_width]
        worse = [key for key, gap in gaps.items() if -gap.mean > gap.half_width]
        neither = [key for key in shared if key not in better and key not in worse]
        yield (f"Do gradients help, {what}? {METHODS[ranked[0]].title} against {METHODS[_FREE].title}, which reads no gradients:"
               f" better on {_listed(better)}; worse on {_listed(worse)}; no difference beyond the interval on"
               f" {_listed(neither)}.")  # fmt: skip


def _listed(keys: Sequence[tuple[str, int]]) -> str:
    names = [f"{name} {level}" if level else name for name, level in keys]
    if not names:
        return "none"
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} ({', '.join(names[:3])}, ...)"


def _rank_sentence(found: StudyResult, model: str) -> Iterable[str]:
    for protocol, what in (
        (SAME_KIND, "fitted to the corruption itself"),
        (LEFT_OUT, "fitted to other corruptions"),
    ):
        means = {
            method: [
                r.values["spearman"].mean
                for r in found.chosen(model=model, protocol=protocol, method=method) if "spearman" in r.values
            ]
            for method in found.study.methods
        }  # fmt: skip
        known = {method: sum(values) / len(values) for method, values in means.items() if values}
        if known:
            best = max(known, key=lambda method: known[method])
            yield f"The score that follows the level best, {what}: {METHODS[best].title} (mean rank correlation {known[best]:.2f})."
