"""Runs a declared study, model by model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from gradfast.errors import InputError
from gradfast.studies.declaration import Profile, Study
from gradfast.studies.results import StudyResult
from gradfast.studies.workbench import Bench, Settings, Subject, open_subject
from gradfast.version import __version__

__all__ = ["narrowed", "run_study"]


def run_study(
    study: Study, profile: str | Profile = "quick", settings: Settings | None = None
) -> StudyResult:
    """Runs all rows of a study that can be run here; the others are listed as blank, with what they need.

    What was computed is kept in `settings.cache`: started again, a run that was killed goes on, and one with another
    method or set computes only that.

    Args:
        study: what to run.
        profile: its size, by name or as it is.
        settings: where data lie, and how to run.

    Raises:
        InputError: an unknown profile, method or set, or images that cannot be used.
    """
    settings = settings or Settings()
    if isinstance(profile, str) and profile not in study.profiles:
        raise InputError(f"profile: got {profile!r}; wanted one of {', '.join(study.profiles)}")
    size = study.profiles[profile] if isinstance(profile, str) else profile
    name = next((name for name, known in study.profiles.items() if known == size), "own")
    found = StudyResult(study, name, size)
    bench = Bench(study, size, settings, found)
    found.facts.append(("run", f"gradfast {__version__}, torch {torch.__version__}, profile {name}, seed {settings.seed},"
                        f" {size.splits} splits of every set into halves"))  # fmt: skip
    for entry in study.models:
        if size.models is not None and entry.name not in size.models:
            others = [n for n, p in study.profiles.items() if p.models is None or entry.name in p.models]
            hint = f" (--profile {others[0]})" if others else ""
            bench.blank(entry, "", "", f"not in the profile {name}{hint}")
            continue
        subject = open_subject(bench, entry)
        if subject is not None:
            fillers()[study.kind](subject)
    return found


def fillers() -> dict[str, Callable[[Subject], None]]:
    """What fills the rows of a model, by the kind of study."""
    from gradfast.studies.ablation import fill_ablation
    from gradfast.studies.adversarial import fill_adversarial
    from gradfast.studies.corruption import fill_corruption
    from gradfast.studies.ood import fill_ood

    return {
        "ood": fill_ood,
        "adversarial": fill_adversarial,
        "corruption": fill_corruption,
        "ablation": fill_ablation,
    }


def narrowed(
    study: Study, *, models: Sequence[str] = (), sets: Sequence[str] = (), methods: Sequence[str] = ()
) -> Study:
    """The study with some of its models, outlier sets (attacks, corruptions) and methods; none stands for all.

    Raises:
        InputError: one that the study does not have.
    """
    if models:
        _check("model", models, [entry.name for entry in study.models])
        study = replace(study, models=tuple(entry for entry in study.models if entry.name in models))
    if methods:
        study = replace(study, methods=tuple(methods))
    if sets:
        known = {name for names in study.outside.values() for name in names} | {
            *study.attacks,
            *study.corruptions,
        }
        _check("set", sets, sorted(known))
        study = replace(
            study,
            outside={inside: tuple(n for n in names if n in sets) for inside, names in study.outside.items()},
            attacks=tuple(name for name in study.attacks if name in sets),
            corruptions=tuple(name for name in study.corruptions if name in sets),
        )
    return study


def _check(what: str, asked: Sequence[str], known: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            raise InputError(f"{what}: the study has no {name!r}; it has {', '.join(known)}")
