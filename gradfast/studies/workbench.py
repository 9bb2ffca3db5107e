"""The workbench of a run: where data lie, what is kept, and one model's readers and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from gradfast.errors import InputError
from gradfast.models import load_model, load_preprocess
from gradfast.studies.cache import Cache
from gradfast.studies.catalogue import Located, MissingSetError, locate, locate_file
from gradfast.studies.columns import Columns, Reader
from gradfast.studies.declaration import ModelEntry, Profile, Study
from gradfast.studies.images import Images, Recipe, read_images, stored_quality
from gradfast.studies.methods import MethodEntry, find_method
from gradfast.studies.results import Blank, StudyResult

__all__ = ["Bench", "Settings", "Subject", "limited", "open_subject"]


@dataclass(frozen=True)
class Settings:
    """How a study is run.

    Attributes:
        roots: data roots, searched in this order.
        data: sources by the name of the set, before any root.
        weights: files by the name of the model, before any root.
        cache: the folder of what is kept.
        seed: of the draws, attacks and corruptions; splits have `seed`, `seed + 1`, ...
        jpeg: quality that all images are stored at; None: as the in-distribution files are.
        progress: show bars.
        say: told what is done.
    """

    roots: tuple[Path, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: Path = Path("gradfast-cache")
    seed: int = 0
    jpeg: int | None = None
    progress: bool = False
    say: Callable[[str], None] = lambda line: None


@dataclass
class Bench:
    """A run's study, profile, settings and results."""

    study: Study
    profile: Profile
    settings: Settings
    found: StudyResult

    def __post_init__(self) -> None:
        self.cache = Cache(self.settings.cache)
        self.methods = [find_method(name) for name in self.study.methods]
        self.seeds = range(self.settings.seed, self.settings.seed + self.profile.splits)

    def locate(self, name: str) -> Located:
        """A set by name; raises `MissingSetError`."""
        return locate(self.study.sets[name], self.places(), self.settings.data)

    def places(self) -> list[Path]:
        """Where sets and weights are looked for, in this order."""
        folder = self.study.folder
        beside = [] if folder is None else [folder, Path()]
        return list(dict.fromkeys([*self.settings.roots, *beside]))

    def blank(self, subject: ModelEntry, outside: str, method: str, why: object) -> None:
        """Notes what is left blank."""
        self.settings.say(f"{subject.name}: blank: {outside or method or 'all rows'}: {why}")
        self.found.blanks.append(Blank(subject.name, subject.inside, outside, method, str(why)))


@dataclass
class Subject:
    """One model at work: its images are all prepared by `recipe`, its methods are those that can be run."""

    bench: Bench
    entry: ModelEntry
    model: nn.Module
    recipe: Recipe
    inside: Located
    reader: Reader
    methods: Sequence[MethodEntry]

    def images(self, located: Located, *, limit: int | None = None, name: str | None = None) -> Images:
        """Images of a set, at most as many as the profile allows."""
        most = self.bench.profile.limit(self.entry.name, located.entry.name)
        found = read_images(
            located, self.recipe, limit=most if limit is None else limit, seed=self.bench.settings.seed,
            cache=self.bench.cache, name=name,
        )  # fmt: skip
        notes = "; ".join(found.notes) or "as stored"
        self.bench.found.facts.append((f"{self.entry.name}, {found.name}", f"{len(found):,} images: {notes}"))
        return found

    def columns(self, images: Images) -> dict[str, Columns]:
        """All that the methods read of these images."""
        reads = list(dict.fromkeys(name for method in self.methods for name in method.reads))
        norms = [name for name in reads if name in ("one-hot", "all-ones")]
        sources = [name for name in reads if name not in norms]
        found: dict[str, Columns] = {name: self.reader.norms(images, name) for name in norms}
        return {**found, **(self.reader.sources(images, sources) if sources else {})}


def open_subject(bench: Bench, entry: ModelEntry) -> Subject | None:
    """Loads a model and finds its sets; None, with a blank noted, if its weights or its images are not there."""
    settings = bench.settings
    try:
        inside = bench.locate(entry.inside)
        weights = settings.weights.get(entry.name)
        if weights is None and entry.weights is not None:
            weights = locate_file(entry.weights, bench.places(), entry.where)
        model = load_model(_found_entry(entry.spec, bench.study.folder), weights)
        entry = _normalised_as_trained(entry, weights)
    except MissingSetError as error:
        bench.blank(entry, "", "", error)
        return None
    quality = settings.jpeg
    if quality is None and inside.source is not None:
        quality = stored_quality(inside.source)
    recipe = Recipe(entry.size, entry.channels, quality)
    training: Located | None = None
    reason = "the model declares no set of training images (fit)"
    if entry.fit is not None:
        try:
            training = bench.locate(entry.fit)
        except MissingSetError as error:
            reason = str(error)
    methods = [method for method in bench.methods if training is not None or not method.needs_fit()]
    for method in bench.methods:
        if method not in methods:
            bench.blank(entry, "", method.name, f"needs training images: {reason}")
    if not methods:
        raise InputError(f"methods: none of {', '.join(m.name for m in bench.methods)} can be run: {reason}")
    limit = bench.profile.fit_images

    def read_training() -> Images:
        assert training is not None
        return read_images(training, recipe, limit=limit, seed=settings.seed, cache=bench.cache)

    reader = Reader(
        entry, model, None if training is None else read_training, bench.cache,
        say=settings.say, progress=settings.progress,
    )  # fmt: skip
    return Subject(bench, entry, model, recipe, inside, reader, methods)


def _found_entry(spec: str, folder: Path | None) -> str:
    """The spec with the path of its ``file.py``, if it has one, as it is from here; data roots are no place for code."""
    file, _, function = spec.partition(":")
    if not file.endswith(".py") or folder is None or Path(file).is_file():
        return spec
    if not (folder / file).is_file():
        raise InputError(f"model: there is no {file}: looked in the working directory, {folder}")
    return f"{folder / file}:{function}"


def _normalised_as_trained(entry: ModelEntry, weights: Path | None) -> ModelEntry:
    """The entry with the mean and std that the file of weights tells, unless it declares its own."""
    trained = None if weights is None else load_preprocess(weights)
    if trained is None or entry.mean is not None or entry.std is not None:
        return entry
    found = trained.settings()
    mean, std = (None if found[name] is None else tuple(found[name]) for name in ("mean", "std"))
    return replace(entry, mean=mean, std=std)


def limited(images: Images, n: int, name: str | None = None) -> Images:
    """The first n images."""
    return replace(
        images,
        name=name or images.name,
        pixels=images.pixels[:n],
        labels=images.labels[:n],
        index=images.index[:n],
    )
