"""What a study is: models x sets x methods, declared as data.

The built-in studies are in `gradfast.studies.builtin`; `gradfast.studies.reading` takes the same from a TOML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradfast.errors import InputError, describe
from gradfast.studies.catalogue import SETS, SetEntry

__all__ = ["KINDS", "ModelEntry", "Profile", "Study"]

KINDS = ("ood", "adversarial", "corruption", "ablation")


@dataclass(frozen=True)
class ModelEntry:
    """A classifier, and the images that it knows.

    Attributes:
        name: what tables and options call it.
        spec: as `gradfast.models.load_model` takes it.
        inside: name of the set that it was trained for, in images that it was not trained on.
        weights: a file, or its name under a data root; None for a Python entry that loads its own.
        fit: name of the set of training images, for methods that take statistics of them; None leaves such methods out.
        size: side of its square input, in pixels.
        channels: 3 or 1.
        mean: per channel, subtracted from pixels in [0, 1]; without mean and std, those that the file of weights tells, if any.
        std: per channel, what the difference is divided by.
        where: how to get the weights.
        paper: what the tutorial calls the network in its tables.
    """

    name: str
    spec: str
    inside: str
    weights: str | None = None
    fit: str | None = None
    size: int = 32
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    where: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Profile:
    """How large a run is.

    Attributes:
        images: per set, at most; for a study of attacks or corruptions, images that are attacked or corrupted.
        fit_images: training images for methods that take statistics of them.
        splits: random halves, each of them a fit and a test.
        set_images: other limits, by set.
        model_images: other limits, by model.
        models: the models that are run; None: all.
    """

    images: int
    fit_images: int = 2000
    splits: int = 5
    set_images: Mapping[str, int] = field(default_factory=dict)
    model_images: Mapping[str, int] = field(default_factory=dict)
    models: tuple[str, ...] | None = None

    def limit(self, model: str, name: str) -> int:
        """Images of a set for a model."""
        return min(
            self.images, self.set_images.get(name, self.images), self.model_images.get(model, self.images)
        )


@dataclass(frozen=True)
class Study:
    """A declared table.

    Attributes:
        kind: one of `KINDS`, which says what the rows are.
        name: of the files that it writes.
        title: of its report.
        models: one block of rows each.
        outside: by in-distribution set, the names of the outlier sets ("ood" and "ablation").
        attacks: names from `gradfast.attacks.ATTACKS` ("adversarial").
        corruptions: names from `gradfast.corruptions.CORRUPTIONS` ("corruption").
        levels: of the corruptions, 1 to 5.
        methods: names from `gradfast.studies.methods.METHODS`, with hyphens or underscores.
        sets: by name.
        profiles: by name; "quick" and "full".
        folder: of the file that declares it, where sets and weights are looked up after the data roots, and the ``file.py`` of a model
            after the working directory; None for a study that no file declares.
    """

    kind: str
    name: str
    title: str
    models: tuple[ModelEntry, ...]
    methods: tuple[str, ...]
    outside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attacks: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()
    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    sets: Mapping[str, SetEntry] = field(default_factory=lambda: dict(SETS))
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        # Detectors spell them with underscores.
        object.__setattr__(self, "methods", tuple(name.replace("_", "-") for name in self.methods))
        if self.kind not in KINDS:
            raise InputError(f"kind: got {describe(self.kind)}; wanted one of {', '.join(KINDS)}")
        if not self.models:
            raise InputError("models: got none; wanted at least one")
        named = [*(m.inside for m in self.models), *(m.fit for m in self.models if m.fit)]
        named += [name for names in self.outside.values() for name in names]
        for name in named:
            if name not in self.sets:
                raise InputError(f"sets: there is no set {name!r}; declared are {', '.join(self.sets)}")
