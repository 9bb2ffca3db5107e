"""Detection of adversarial images: those that the model got right before the attack and gets wrong after it.

Samples in are the clean versions of the very images that the attack succeeded on, so that a detector cannot tell by
which images they are. The half of the images that is tested is the same for all attacks.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradfast.attacks import AttackWarning, attack, budget_of, on_pixels
from gradfast.errors import InputError
from gradfast.models.fingerprint import fingerprint
from gradfast.studies.columns import Columns
from gradfast.studies.curves import add_curves
from gradfast.studies.images import Images, compressed
from gradfast.studies.methods import MethodEntry
from gradfast.studies.ood import add_norm_profile, record
from gradfast.studies.paper import paper_auroc
from gradfast.studies.protocols import Group, Pairing
from gradfast.studies.remember import remembered_run
from gradfast.studies.results import CONTROL, LEFT_OUT, NO_OUTLIERS, SAME_SET
from gradfast.studies.workbench import Subject
from gradfast.version import installed_version

__all__ = ["fill_adversarial"]

_PART = 64  # images in a file of the cache
_SPARE = 1.5  # images drawn per image that is attacked, for those that the model gets wrong


def fill_adversarial(subject: Subject) -> None:
    """All rows of one model."""
    bench, entry = subject.bench, subject.entry
    clean = _right(subject)
    if clean is None:
        return
    columns = subject.columns(clean)
    pairings = []
    for name in bench.study.attacks:
        found = _attacked(subject, clean, name)
        rows = np.flatnonzero(found["success"])
        budget = ", ".join(f"{key} {value:.4g}" for key, value in budget_of(name).items())
        said = f"{len(rows)} of {len(clean)} images fooled it ({budget})"
        if len(rows):
            said += (f"; largest change of a pixel, median: {np.median(found['linf'][rows]):.4f};"
                     f" Euclidean norm: {np.median(found['l2'][rows]):.2f}")  # fmt: skip
        bench.found.facts.append((f"{entry.name}, {name}", said))
        if not len(rows):
            bench.blank(
                entry,
                name,
                "",
                f"the attack never succeeds: it fooled none of {len(clean)} images ({budget})",
            )
            continue
        images = replace(clean, name=name, pixels=found["images"])
        pairings.append(_pairing(subject, name, columns, images, rows))
    if not pairings:
        return
    whole = Group(columns, np.arange(len(clean)), len(clean))
    add_norm_profile(subject, clean.name, whole.columns, pairings)
    noise = _control(subject, clean, columns)
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
        _row(subject, method, noise, pairings, CONTROL)
    add_curves(subject, pairings)


def _right(subject: Subject) -> Images | None:
    """Images that the model gets right, as many as the profile says."""
    bench, entry = subject.bench, subject.entry
    n = bench.profile.limit(entry.name, entry.inside)
    drawn = subject.images(subject.inside, limit=int(n * _SPARE))
    if (drawn.labels < 0).any():
        raise InputError(
            f"{drawn.name}: has images without a label; wanted labels, to know which the model gets right"
        )
    rows = np.flatnonzero(subject.reader.logits(drawn).argmax(axis=1) == drawn.labels)[:n]
    if not len(rows):
        bench.blank(entry, "", "", f"the model gets none of {len(drawn)} images right")
        return None
    return replace(drawn, pixels=drawn.pixels[rows], labels=drawn.labels[rows], index=drawn.index[rows])


def _attacked(subject: Subject, clean: Images, name: str) -> dict[str, NDArray[Any]]:
    bench, entry = subject.bench, subject.entry
    model = on_pixels(subject.model, entry.mean, entry.std)
    labels = torch.from_numpy(clean.labels)
    seed = bench.settings.seed
    told = False

    def compute(rows: slice) -> dict[str, NDArray[Any]]:
        nonlocal told
        if not told:
            bench.settings.say(f"{entry.name}: {name} on {len(clean):,} images")
            told = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AttackWarning)  # a part without success is no news
            result = attack(
                model, torch.from_numpy(clean.pixels[rows]), labels[rows], name, seed=seed,
                index=torch.from_numpy(clean.index[rows]), batch_size=_PART,
            )  # fmt: skip
        return {
            "images": result.images.numpy(), "success": result.success.numpy(),
            "linf": result.linf.numpy(), "l2": result.l2.numpy(),
        }  # fmt: skip

    key = {
        "model": fingerprint(subject.model), "images": clean.fingerprint(), "mean": entry.mean, "std": entry.std,
        "attack": name, "budget": budget_of(name), "seed": seed, "torch": torch.__version__,
        "torchattacks": installed_version("torchattacks"),
    }  # fmt: skip
    return bench.cache.by_parts("attacks", key, len(clean), _PART, compute)


def _pairing(
    subject: Subject, name: str, clean: dict[str, Columns], attacked: Images, rows: NDArray[np.int64]
) -> Pairing:
    fooled = replace(
        attacked, pixels=attacked.pixels[rows], labels=attacked.labels[rows], index=attacked.index[rows]
    )
    pool = len(attacked)
    inside = Group({key: of[rows] for key, of in clean.items()}, rows, pool)
    return Pairing(name, inside, Group(subject.columns(fooled), rows, pool))


def _control(subject: Subject, clean: Images, columns: dict[str, Columns]) -> Pairing:
    """The clean images with random signs of FGSM's size added: as changed as an attack's, and fooling nobody on purpose."""
    eps = float(budget_of("fgsm")["eps"])
    signs = np.random.default_rng(subject.bench.settings.seed).choice([-eps, eps], size=clean.pixels.shape)
    images = replace(clean, name="random signs of FGSM's size", pixels=compressed(clean.pixels + signs, None))
    rows = np.arange(len(clean))
    return _pairing(subject, images.name, columns, images, rows)


def _row(
    subject: Subject, method: MethodEntry, pairing: Pairing, learned: list[Pairing], protocol: str
) -> None:
    bench, entry = subject.bench, subject.entry
    try:
        (tested,) = remembered_run(bench.cache, method, [pairing], learned, protocol, bench.seeds)
    except InputError as error:
        bench.blank(entry, pairing.name, method.name, error)
        return
    figure = paper_auroc(bench.study, entry, pairing.name, method.name)
    record(subject, method, tested, protocol, paper={} if figure is None else {"auroc": figure})
