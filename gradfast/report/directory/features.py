"""A folder of features: how it was made, and the norms layer by layer."""

from __future__ import annotations

from collections import Counter

import numpy as np

from gradfast.features import Features
from gradfast.report.directory.section import Section, grid
from gradfast.report.directory.walk import Found
from gradfast.report.figures import NormProfile, layer_norms
from gradfast.report.page import FigureBlock

__all__ = ["read_features"]

_READ = 5000  # quartiles do not get better, and features may be larger than memory
_SHOWN = ("model", "model_fingerprint", "contrast", "loss", "classes", "dtype", "device", "gradfast", "torch")


def read_features(found: Found, key: str) -> Section:
    """A section of a folder that `gradfast extract` wrote.

    Raises:
        StoreError: the extraction is unfinished, or a newer version wrote it.
        CorruptError: a file was altered.
    """
    features = Features.load(found.path)
    n, rows, layers = features.shape
    some = features[:_READ]
    flagged = int(features.flagged.sum())
    facts = [
        ("samples", f"{n:,}"),
        ("flagged, without norms", f"{flagged:,}"),
        ("contrast rows", str(rows)),
        ("layers", str(layers)),
    ]
    known = features.labels >= 0
    if n and known.all():
        facts.append(("prediction is the label", f"{np.mean(features.labels == features.predictions):.1%}"))
    most = Counter(features.predictions.tolist()).most_common(5)
    facts.append(
        ("predicted most often", ", ".join(f"class {c}: {count / n:.1%}" for c, count in most if c >= 0))
    )
    settings = features.settings
    facts += [(name, str(settings[name])) for name in _SHOWN if settings.get(name) is not None]
    source = settings.get("source")
    if isinstance(source, dict):
        facts += [
            (f"source {name}", str(value))
            for name, value in source.items()
            if not isinstance(value, (dict, list))
        ]
    notes = [f"Quartiles over the first {len(some):,} of {n:,} samples."] if len(some) < n else []
    finite = np.isfinite(some.values).all((1, 2)) if n else np.zeros(0, bool)
    if not finite.any():
        notes = ["No sample has norms."]
        return Section(f"Features: {found.path.resolve().name}", found.name, facts=facts, notes=notes)
    what = f"The {settings.get('contrast', 'given')} contrast" + (
        f", mean of {rows} rows" if rows > 1 else ""
    )
    profile = NormProfile.of(
        what, features.layers, found.path.resolve().name, {found.path.resolve().name: some.values}
    )
    quartiles = 10.0**profile.inside.quartiles
    table = grid(
        "Squared gradient norm of each parameter",
        ["parameter", "lower quartile", "median", "upper quartile"],
        [[layer, *map(float, quartiles[:, i])] for i, layer in enumerate(features.layers)],
    )
    figure = FigureBlock("Gradient norms, layer by layer", f"{what}.", layer_norms(profile, f"{key}-l"))
    return Section(
        f"Features: {found.path.resolve().name}",
        found.name,
        facts=facts,
        notes=notes,
        figures=[figure],
        grids=[table],
    )
