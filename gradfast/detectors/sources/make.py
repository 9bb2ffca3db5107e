"""Sources by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from gradfast.detectors.sources.base import Source
from gradfast.detectors.sources.logits import Energy, GradNorm, MaxSoftmax, Penultimate
from gradfast.detectors.sources.mahalanobis import Mahalanobis, MahalanobisFE, MahalanobisP, MahalanobisPFE
from gradfast.detectors.sources.neighbours import Knn, Lid
from gradfast.detectors.sources.odin import Odin
from gradfast.detectors.sources.vim import Vim
from gradfast.errors import InputError, describe
from gradfast.selection import nearest

__all__ = ["SOURCES", "make_source"]

_KINDS: tuple[type[Source], ...] = (
    MaxSoftmax, Odin, Energy, Mahalanobis, MahalanobisP, MahalanobisFE, MahalanobisPFE,
    Vim, Knn, GradNorm, Lid, Penultimate,
)  # fmt: skip
SOURCES: dict[str, type[Source]] = {kind.name: kind for kind in _KINDS}


def make_source(name: str, model: nn.Module, *, std: Any = None, **settings: Any) -> Source:
    """The source of that name.

    Args:
        name: one of `SOURCES`.
        model: maps inputs to logits [B, K]; in eval mode.
        std: per channel, what the inputs were divided by; steps of input preprocessing are in units of
            pixels in [0, 1] then, as in the papers. Sources that do not move the input ignore it.
        **settings: as the source's class takes them.

    Raises:
        InputError: another name, or a setting that the source does not have.
    """
    if name not in SOURCES:
        raise InputError(f"name: there is no source {name!r}; {nearest(name, list(SOURCES))}")
    kind = SOURCES[name]
    # JSON, which settings are kept in, has no form for NumPy's numbers.
    settings = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in settings.items()
    }
    try:
        return kind(model, **({"std": std} if kind.record else {}), **settings)
    except TypeError as error:
        raise InputError(f"settings: {name} does not take {describe(settings)} ({error})") from error
