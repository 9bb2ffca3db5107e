"""What the methods read of a set of images: gradient norms and the columns of sources, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradfast.detectors.sources import Source, SourceColumns, Tap, fit_sources, make_source, run_sources
from gradfast.extractor import FeatureExtractor
from gradfast.features import Features
from gradfast.models.fingerprint import fingerprint
from gradfast.store.run import MANIFEST
from gradfast.studies.cache import Cache
from gradfast.studies.declaration import ModelEntry
from gradfast.studies.images import Images
from gradfast.version import installed_version

__all__ = ["Columns", "Reader"]

Columns = Features | SourceColumns

_ROWS = 256  # images in a file of the cache: what a killed run may lose
_BATCH = 64


class Reader:
    """Columns of images for one model.

    Args:
        entry: its normalisation.
        model: maps normalised images to logits; in eval mode.
        training: gives the images that sources take statistics of; asked once, if at all. None: there are none.
        cache: where columns are kept.
        say: told what is computed.
        progress: show bars.
    """

    def __init__(
        self,
        entry: ModelEntry,
        model: nn.Module,
        training: Callable[[], Images] | None,
        cache: Cache,
        *,
        say: Callable[[str], None] = lambda line: None,
        progress: bool = False,
    ) -> None:
        self.entry, self.model, self.cache = entry, model, cache
        self._training, self._say, self._progress = training, say, progress
        self._images: Images | None = None
        self._fitted: dict[str, Source] = {}
        self._tap = Tap(model)
        self._fingerprint = fingerprint(model)

    def normalised(self, pixels: NDArray[np.float32]) -> Tensor:
        """The model's input [n, C, H, W] of pixels in [0, 1]."""
        x = torch.from_numpy(pixels)
        for values, subtract in ((self.entry.mean, True), (self.entry.std, False)):
            if values is not None:
                each = torch.tensor(values, dtype=x.dtype).view(-1, 1, 1)
                x = x - each if subtract else x / each
        return x

    def norms(self, images: Images, contrast: str) -> Features:
        """Squared gradient norms [n, C, L] against every class ("one-hot") or against all ones ("all-ones")."""
        extractor = FeatureExtractor(self.model, contrast=contrast, batch_size=_BATCH)
        key = {**extractor.settings(), **self._input(images)}
        folder = self.cache.folder("norms", key) / "features"
        if not (folder / MANIFEST).exists():
            self._say(f"{self.entry.name}: {contrast} norms of {images.name}, {len(images):,} images")
        x = self.normalised(images.pixels), torch.from_numpy(images.labels)
        return extractor.extract(x, folder, progress=self._progress, rows_per_file=_ROWS)

    def sources(self, images: Images, names: Sequence[str]) -> dict[str, SourceColumns]:
        """Columns of each source by name; those that are not kept yet are read in one forward pass together."""
        folders = {name: self.cache.folder("sources", self._source_key(name, images)) for name in names}
        starts = range(0, len(images), _ROWS)
        parts: dict[str, list[dict[str, NDArray[Any]]]] = {name: [] for name in names}
        told = False
        for number, first in enumerate(starts):
            rows = slice(first, min(first + _ROWS, len(images)))
            found = {name: self.cache.get(folder, number) for name, folder in folders.items()}
            missing = [name for name, part in found.items() if part is None]
            if missing and not told:
                self._say(f"{self.entry.name}: {', '.join(missing)} of {images.name}, {len(images):,} images")
                told = True
            for name, part in self._read(images, rows, missing).items() if missing else ():
                found[name] = part
                self.cache.put(folders[name], number, part)
            for name in names:
                part_found = found[name]
                assert part_found is not None
                parts[name].append(part_found)
        return {name: self._joined(name, parts[name], images) for name in names}

    def logits(self, images: Images) -> NDArray[np.float32]:
        """The model's logits [n, K]."""
        with torch.inference_mode():
            found = [self.model(self.normalised(images.pixels[rows])) for rows in _batches(len(images))]
        return np.asarray(torch.cat(found).float().cpu().numpy())

    @property
    def training(self) -> Images | None:
        """The images that sources take statistics of."""
        if self._images is None and self._training is not None:
            self._images = self._training()
        return self._images

    def _input(self, images: Images) -> dict[str, Any]:
        return {"images": images.fingerprint(), "mean": self.entry.mean, "std": self.entry.std}

    def _source_key(self, name: str, images: Images) -> dict[str, Any]:
        source = self._made(name)
        fitted_on = self.training.fingerprint() if source.needs_fit and self.training is not None else None
        return {
            "source": source.name, "settings": source.settings(), "model": self._fingerprint, "fitted_on": fitted_on,
            "torch": torch.__version__, "pytorch-ood": installed_version("pytorch-ood"), **self._input(images),
        }  # fmt: skip

    def _made(self, name: str) -> Source:
        """The source of a name, with the step that follows a colon: "odin:0.002"."""
        kind, _, eps = name.partition(":")
        step = {"eps": float(eps)} if eps else {}
        return make_source(kind, self.model, std=self.entry.std, tap=self._tap, **step)

    def _read(self, images: Images, rows: slice, names: Sequence[str]) -> dict[str, dict[str, NDArray[Any]]]:
        self._fit(names)
        x = self.normalised(images.pixels[rows])
        labels = torch.from_numpy(images.labels[rows])
        batches = [(x[part], labels[part]) for part in _batches(len(x))]
        # One pass for all but those of a given step, whose names are not their sources' own.
        plain = [name for name in names if ":" not in name]
        found = run_sources([self._fitted[name] for name in plain], batches) if plain else {}
        for name in names:
            if name not in plain:
                (found[name],) = run_sources([self._fitted[name]], batches).values()
        return {
            name: {
                "values": columns.values, "names": np.array(columns.layers),
                "predictions": np.asarray(columns.predictions),
            }
            for name, columns in found.items()
        }  # fmt: skip

    def _fit(self, names: Sequence[str]) -> None:
        new = [name for name in names if name not in self._fitted]
        made = [self._made(name) for name in new]
        if any(source.needs_fit for source in made):
            training = self.training
            assert training is not None
            self._say(f"{self.entry.name}: {', '.join(s.name for s in made if s.needs_fit)} take statistics of"
                      f" {len(training):,} training images")  # fmt: skip
            x, y = self.normalised(training.pixels), torch.from_numpy(training.labels)
            fit_sources(made, ((x[part], y[part]) for part in _batches(len(x))))
        self._fitted.update(zip(new, made, strict=True))

    def _joined(self, name: str, parts: Sequence[dict[str, NDArray[Any]]], images: Images) -> SourceColumns:
        return SourceColumns(
            np.concatenate([part["values"] for part in parts]),
            tuple(map(str, parts[0]["names"])),
            {"source": name, "model_fingerprint": self._fingerprint},
            np.concatenate([part["predictions"] for part in parts]),
            images.labels,
        )


def _batches(n: int) -> Iterator[slice]:
    return (slice(first, min(first + _BATCH, n)) for first in range(0, n, _BATCH))
