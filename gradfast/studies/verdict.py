"""What a study's figures say, in sentences: which detector to use, and where gradients do not help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gradfast.studies.methods import METHODS
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_KIND, SAME_SET, Result, StudyResult
from gradfast.studies.statistics import Estimate, estimate

__all__ = ["difference", "verdict"]

_GRADIENT = ("purview-one-hot", "purview-all-ones")
_FREE = "penultimate"


def verdict(found: StudyResult) -> list[str]:
    """A paragraph per model that was run; one that says so if none was."""
    paragraphs = []
    for model in found.study.models:
        results = [r for r in found.chosen(model=model.name) if r.protocol != CONTROL and "auroc" in r.values]
        if results:
            paragraphs.append(" ".join(_of_model(found, model.name, results)))
    return paragraphs or [
        "Nothing was measured: no model and images of this study are on disk; see what is left blank."
    ]


def difference(first: Result, second: Result) -> Estimate:
    """Mean and interval of the difference in AUROC of two methods on the same splits."""
    assert first.outcome is not None
    assert second.outcome is not None
    pairs = zip(first.outcome.splits, second.outcome.splits, strict=True)
    return estimate([a.auroc - b.auroc for a, b in pairs])


def _of_model(found: StudyResult, model: str, results: Sequence[Result]) -> Iterable[str]:
    kind = found.study.kind
    things = {"adversarial": "attack", "corruption": "corruption"}.get(kind, "outlier set")
    seen = _ranked(results, (SAME_SET,))
    unseen = _ranked(results, (LEFT_OUT, NO_OUTLIERS) if _has(results, LEFT_OUT) else (NO_OUTLIERS,))
    blind = _ranked(results, (NO_OUTLIERS,))
    yield f"{model}."
    if seen:
        yield f"With examples of what is to be found, use {_said(seen[0], results, (SAME_SET,), things)}."
    if unseen and _has(results, LEFT_OUT):
        name, mean = unseen[0]
        yield (f"For a kind that nobody thought of, use {METHODS[name].title}: mean AUROC {mean:.3f} on kinds that it never"
               " saw.")  # fmt: skip
    if blind:
        name, mean = blind[0]
        yield f"Without any examples, use {METHODS[name].title}: mean AUROC {mean:.3f}."
    for method in _GRADIENT:
        yield from _against_free(results, method)
    if kind == "corruption":
        yield from _rank_sentence(found, model)


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


def _said(ranked: tuple[str, float], results: Sequence[Result], protocols: Sequence[str], things: str) -> str:
    name, mean = ranked
    own = [r for r in results if r.method == name and r.protocol in protocols]
    worst = min(own, key=lambda r: r.auroc)
    count = len({r.outside for r in own})
    level = f" at level {worst.level}" if worst.level else ""
    return (
        f"{METHODS[name].title}: mean AUROC {mean:.3f} over {count} {things}{'s' if count > 1 else ''}"
        f" (worst: {worst.auroc:.3f} on {worst.outside}{level})"
    )


def _against_free(results: Sequence[Result], method: str) -> Iterable[str]:
    """How often gradient norms beat features without gradients under the same H, and how often not."""
    for protocol, what in ((SAME_SET, "with the tested kind seen"), (LEFT_OUT, "with it left out")):
        ours = {(r.outside, r.level): r for r in results if (r.method, r.protocol) == (method, protocol)}
        free = {(r.outside, r.level): r for r in results if (r.method, r.protocol) == (_FREE, protocol)}
        shared = [key for key in ours if key in free and len(ours[key].outcome.splits) > 1]  # type: ignore[union-attr]
        if not shared:
            continue
        better, worse = [], []
        for key in shared:
            gap = difference(ours[key], free[key])
            if gap.mean > gap.half_width:
                better.append(key)
            elif -gap.mean > gap.half_width:
                worse.append(key)
        neither = len(shared) - len(better) - len(worse)
        yield (f"{METHODS[method].title} against the same kind of H on gradient-free features, {what}: better on"
               f" {_listed(better)}, worse on {_listed(worse)}, no difference beyond the interval on {neither} of"
               f" {len(shared)}.")  # fmt: skip


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
