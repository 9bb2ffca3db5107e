"""Any source of samples as numbered batches, the same ones in every run, that can be entered in the middle."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from gradfast.errors import InputError, describe

from . import fingerprint
from .images import Preprocess
from .imageset import ImageSet
from .opening import open_images
from .samples import Array, Batch, leaves, map_leaves, parse_labels, split_labels

__all__ = ["Batch", "Batches", "as_batches"]


class Batches(ABC):
    """The batches of a source.

    Attributes:
        samples: how many samples there are; None if that shows only at the end.
        shuffles: what changes their order from run to run; None if nothing does.
        batch: samples in every batch but the last; None if that is not known before they are read.
    """

    samples: int | None = None
    shuffles: str | None = None
    batch: int | None = None

    @abstractmethod
    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches number ``start`` up to ``stop``, None for all; the same ones each time."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-able facts that two runs over the same batches share, and others most likely do not."""


def as_batches(source: Any, batch_size: int, workers: int = 0) -> Batches:
    """Takes any source that `FeatureExtractor.extract` takes.

    Args:
        source: see there.
        batch_size: samples per batch, for sources that are not in batches already.
        workers: processes that read and decode, for data sets.

    Raises:
        InputError: a source of another kind, or one without samples.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_images(source)
    if isinstance(source, DataLoader):
        return _LoaderBatches(source)
    if isinstance(source, (Tensor, np.ndarray, tuple, Mapping)):
        return _ArrayBatches(source, batch_size)
    if isinstance(source, IterableDataset):
        return _LoaderBatches(DataLoader(source, batch_size, num_workers=workers))
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list):
        return _DatasetBatches(source, batch_size, workers)
    if isinstance(source, Iterable) and not isinstance(source, Iterator):
        return _IterableBatches(source)
    raise InputError(
        f"source: got {describe(source)}; wanted a DataLoader, a data set, tensors or arrays x or (x, y), "
        "or a path to a folder of images, Parquet or .npz"
    )


class _ArrayBatches(Batches):
    """Tensors or NumPy arrays; memory-mapped ones are read batch by batch."""

    def __init__(self, source: Any, batch: int) -> None:
        self._x, labels = split_labels(source)
        arrays = dict(leaves(self._x))
        for name, array in arrays.items():
            if str(array.dtype).endswith("uint8"):
                raise InputError(
                    f"source: {name} is uint8 of shape {list(array.shape)}; wanted floats as the model takes them, "
                    "or gradfast.data.PixelImages(pixels, labels, Preprocess(...))"
                )
        sizes = {array.shape[0] for array in arrays.values() if array.ndim}
        if len(sizes) != 1 or 0 in sizes:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or describe(
                source
            )
            raise InputError(f"source: got {shapes}; wanted at least one sample, as many in each")
        self.samples: int = sizes.pop()
        self._labels = parse_labels(labels, self.samples)
        self.batch: int = batch

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for first in _firsts(self.samples, self.batch, start, stop):
            rows = slice(first, first + self.batch)
            yield Batch(map_leaves(partial(_slice, rows=rows), self._x), self._labels[rows])

    def settings(self) -> dict[str, Any]:
        digest = fingerprint.of_arrays((self._x, self._labels))
        return {"kind": "arrays", "samples": self.samples, "batch_size": self.batch, "fingerprint": digest}


def _firsts(samples: int, batch: int, start: int, stop: int | None) -> range:
    """The first sample of each of these batches."""
    return range(start * batch, samples if stop is None else min(stop * batch, samples), batch)


def _slice(array: Array, rows: slice) -> Tensor:
    part = array[rows] if array.ndim else array
    return (
        part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
    )  # a copy: it may be read-only


class _DatasetBatches(Batches):
    """A map-style data set, read in order; a run that goes on reads only what is missing."""

    def __init__(self, dataset: Any, batch: int, workers: int) -> None:
        self.samples: int = len(dataset)
        if not self.samples:
            raise InputError(f"source: {type(dataset).__name__} is empty; wanted at least one sample")
        self._chunks = _Chunks(dataset)
        self.batch: int = batch
        self._workers = workers

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        firsts = _firsts(self.samples, self.batch, start, stop)
        chunks = [range(first, min(first + self.batch, self.samples)) for first in firsts]
        if not self._workers:
            return map(self._chunks.__getitem__, chunks)
        loader: DataLoader[Batch] = DataLoader(
            self._chunks,  # type: ignore[arg-type]  # its indices are chunks
            batch_size=None,
            sampler=chunks,
            num_workers=self._workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else the loader draws a seed from the global one
        )
        return iter(loader)

    def settings(self) -> dict[str, Any]:
        dataset = self._chunks.dataset
        facts = {
            "kind": type(dataset).__name__,
            "samples": self.samples,
            "batch_size": self.batch,
            "fingerprint": fingerprint.of_dataset(dataset),
        }
        preprocess = getattr(dataset, "preprocess", None)
        return {**facts, "preprocess": preprocess.settings()} if isinstance(preprocess, Preprocess) else facts


def _unchanged(batch: Any) -> Any:
    return batch


class _Chunks:
    """A map-style data set by chunks of indices, collated; picklable for loader processes."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, chunk: range) -> Batch:
        items = [self.dataset[i] for i in chunk]
        try:
            return Batch.of(default_collate(items))
        except (RuntimeError, TypeError) as error:
            raise InputError(self._why(items, chunk, error)) from error

    def _why(self, items: list[Any], chunk: range, error: Exception) -> str:
        shapes = [_shapes(item) for item in items]
        for i, shape in zip(chunk, shapes, strict=True):
            if shape != shapes[0]:
                hint = "; give --size, or Preprocess(size=...)" if isinstance(self.dataset, ImageSet) else ""
                first, other = self._where(chunk[0]), self._where(i)
                return f"source: {first} has shape {shapes[0]}, {other} has {shape}; wanted one shape for all{hint}"
        return f"source: sample {chunk[0]} is {describe(items[0])}; wanted x, (x, y) or a dict of tensors ({error})"

    def _where(self, i: int) -> str:
        return self.dataset.where(i) if isinstance(self.dataset, ImageSet) else f"sample {i}"


def _shapes(item: Any) -> str:
    return ", ".join(str(list(leaf.shape)) for _, leaf in leaves(item)) or type(item).__name__


class _IterableBatches(Batches):
    """Anything that gives its batches each time it is iterated over; what was done before is read again and skipped."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        return map(Batch.of, islice(self._batches, start, stop))

    def settings(self) -> dict[str, Any]:
        return {"kind": type(self._batches).__name__, "samples": self.samples}


class _LoaderBatches(_IterableBatches):
    """A DataLoader, in its own batches; over a map-style data set, what was done before is not read again."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader)
        self._loader = loader
        self._map_style = not isinstance(loader.dataset, IterableDataset)
        self._order: list[list[int]] | None = None
        if not self._map_style:
            return
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        if (
            isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))
            and not sampler.generator
        ):
            self.shuffles = f"a {type(sampler).__name__} without a generator"
        # Of a plain loader the batches are known as lists of indices, which can be entered in the middle.
        self._listed = type(loader) is DataLoader and loader.batch_sampler is not None
        self._in_order = isinstance(sampler, SequentialSampler) and type(loader.batch_sampler) is BatchSampler
        try:
            self.samples = len(sampler)  # type: ignore[arg-type]  # samplers without a length raise TypeError
        except TypeError:
            return
        if loader.batch_size and self._listed:
            self.batch = loader.batch_size
        if loader.drop_last and loader.batch_size:
            self.samples -= self.samples % loader.batch_size
        if not self.samples:
            raise InputError(
                f"source: the loader over {type(loader.dataset).__name__} gives no samples; wanted at least one"
            )

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        loader = self._loader
        whole = not start and stop is None
        if not self._map_style or not self._listed or self.shuffles or (whole and self._in_order):
            return super().iterate(start, stop)
        rest: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=self._batch_indices()[start:stop],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
        )
        return map(Batch.of, rest)

    def settings(self) -> dict[str, Any]:
        facts = {**super().settings(), "kind": "DataLoader", "batch_size": self._loader.batch_size}
        if not self._map_style:
            return facts
        facts["fingerprint"] = fingerprint.of_dataset(self._loader.dataset)
        if self._listed and not self._in_order and not self.shuffles:
            order = repr([list(batch) for batch in self._batch_indices()])
            facts["order"] = hashlib.sha256(order.encode()).hexdigest()
        return facts

    def _batch_indices(self) -> list[list[int]]:
        """The indices of each batch, drawn once: a sampler with a generator gives others each time that it is asked."""
        if self._order is None:
            if self._in_order:
                self._order = list(self._loader.batch_sampler)  # type: ignore[arg-type]
            else:  # a loader of indices, for it draws from the generator just as the loader of samples would
                indices: DataLoader[Any] = DataLoader(
                    _Indices(),  # type: ignore[arg-type]
                    batch_sampler=self._loader.batch_sampler,
                    collate_fn=_unchanged,
                    generator=self._loader.generator,
                )
                self._order = list(indices)
        return self._order


class _Indices:
    """Item i is i."""

    def __getitem__(self, i: Any) -> Any:
        return i
