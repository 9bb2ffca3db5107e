"""Extraction as a Ray Data pipeline: actors hold the model, Ray places, scales and restarts them.

A path or numbered data set goes out as shard numbers, not pixels: each actor reads, decodes, computes and writes whole
shards, under names and with bytes that do not depend on who does it or how often. So a shard that Ray gives out
again, after its actor died, is the same file. A `ray.data.Dataset` streams its batches through the actors, and the
driver writes what comes back, in order.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gradfast.data import Preprocess
from gradfast.data.batches import Batch
from gradfast.data.images import decode
from gradfast.data.samples import LABEL_KEYS
from gradfast.errors import InputError
from gradfast.extractor import FeatureExtractor, check_rows_per_file, report_flagged
from gradfast.features import Features
from gradfast.places import as_path
from gradfast.progress import SampleProgress
from gradfast.store import Block, Layout, Run
from gradfast.store.layout import ROWS_PER_FILE
from gradfast.store.run import write_shard
from gradfast.store.shard import ShardRecord

from .ranks import require_numbered

__all__ = ["extract"]

Model = nn.Module | Callable[[], nn.Module]


def extract(
    dataset: Any,
    model: Model,
    out: str | PathLike[str],
    *,
    actors: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    workers: int = 0,
    rows_per_file: int = ROWS_PER_FILE,
    preprocess: Preprocess | None = None,
    progress: bool = True,
    **options: Any,
) -> Features:
    """Extracts the features of a data set by the actors of a Ray cluster, or of a local Ray if none was joined.

    ::

        gradfast.distributed.extract("s3://bucket/images/", model, "s3://bucket/features/", actors=(1, 16), num_gpus=1)

    Started again, it goes on: shards that are written are not computed anew. Not so for a `ray.data.Dataset`, which is read
    from its beginning.

    Args:
        dataset: a path or URL of images as for `gradfast.data.open_images`, or a map-style data set or arrays, which all
            nodes can read or which pickles; or a `ray.data.Dataset` with one column that the model takes (or
            encoded images), and perhaps ``label``.
        model: a module, which is sent to the actors; or a function that makes it, which is called in each and once here.
        out: directory for the features, a path that all nodes see or a URL.
        actors: how many; (least, most) lets Ray scale them. Of a `ray.data.Dataset` the reading needs a CPU besides.
        num_cpus: of one actor, which takes as many threads.
        num_gpus: of one actor, which then computes on "cuda".
        workers: processes that read and decode, in each actor.
        rows_per_file: samples in one file at most, which is also the unit of work.
        preprocess: of images, for a path and for a `ray.data.Dataset` of encoded images.
        progress: show a bar.
        options: of `FeatureExtractor`.

    Raises:
        InputError: Ray is not installed; or as `FeatureExtractor.extract`.
        InUseError: another run writes to ``out``.
        MismatchError: ``out`` was begun with another model, other data or other settings.
        StoreError: ``out`` cannot be written.

    Warns:
        FlaggedWarning: lists the flagged samples.
    """
    data = _ray_data()
    check_rows_per_file(rows_per_file)
    pool = _Pool(actors, num_cpus, num_gpus)
    driver = _Driver(data, model, options, out, pool, rows_per_file, progress)
    if isinstance(dataset, data.Dataset):
        features = driver.stream(dataset, preprocess)
    else:
        features = driver.by_shards(_open(dataset, preprocess), workers)
    report_flagged(features)
    return features


class _Pool:
    """How many actors, and of what."""

    def __init__(self, actors: int | tuple[int, int], num_cpus: float, num_gpus: float) -> None:
        few, many = (actors, actors) if isinstance(actors, int) else actors
        if not 1 <= few <= many:
            raise InputError(f"actors: got {actors}; wanted at least 1, or (least, most)")
        self.arguments: dict[str, Any] = {
            "concurrency": (few, many),
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
        }
        self.device = "cuda" if num_gpus else None
        self.threads = max(1, int(num_cpus))

    def sharing(self) -> dict[str, Any]:
        """The same from one actor up: a fixed pool that took every CPU would wait forever for those who read."""
        _, many = self.arguments["concurrency"]
        return {**self.arguments, "concurrency": (1, many)}


class _Actor:
    """What lives in an actor: the model, and how to extract with it.

    ``folder`` is where the driver works: relative paths, also those in a data set, are meant from there.
    """

    def __init__(
        self, model: Any, options: dict[str, Any], device: str | None, threads: int, folder: str
    ) -> None:
        import ray

        with contextlib.suppress(OSError):  # another machine may have no such folder
            os.chdir(folder)
        torch.set_num_threads(threads)
        made: Model = ray.get(model)
        self.extractor = FeatureExtractor(
            made if isinstance(made, nn.Module) else made(),
            **{**options, "device": device or options.get("device")},
        )


class _ShardWriter(_Actor):
    """Takes shard numbers, writes the shards, gives their records."""

    def __init__(self, source: Any, out: Any, layout: Layout, size: int, workers: int, *actor: Any) -> None:
        super().__init__(*actor)
        import ray

        self.out, self.layout, self.size = as_path(out), layout, size
        self.batches = self.extractor.batches(ray.get(source), workers)
        assert self.batches.batch is not None
        self.rows = size * self.batches.batch

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = int(row["shard"])
        record = write_shard(self.out, self.layout, shard, self._block(shard))
        return {"shard": shard, "record": json.dumps(record.to_json())}

    def _block(self, shard: int) -> Block:
        first = shard * self.size
        return self.extractor.block(self.batches, first, shard * self.rows, first + self.size)


class _Stream(_Actor):
    """Takes batches of columns, gives the columns of their features."""

    def __init__(self, preprocess: Preprocess | None, *actor: Any) -> None:
        super().__init__(*actor)
        self.preprocess = preprocess

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        block = self.extractor.block_of(_batch(columns, self.preprocess), 0)
        given = {"logits": block.logits, "classes": block.classes}
        return {
            "label": block.labels,
            "prediction": block.predictions,
            "flagged": block.flagged,
            "values": block.values,
            **{name: column for name, column in given.items() if column is not None},
        }


class _Driver:
    """What the calling process does: it holds the run, hands out work and notes what is done."""

    def __init__(
        self,
        data: Any,
        model: Model,
        options: dict[str, Any],
        out: str | PathLike[str],
        pool: _Pool,
        rows_per_file: int,
        progress: bool,
    ) -> None:
        self.data, self.model, self.options, self.out, self.pool = data, model, options, out, pool
        self.rows_per_file, self.progress = rows_per_file, progress
        self.extractor = FeatureExtractor(model if isinstance(model, nn.Module) else model(), **options)

    def by_shards(self, source: Any, workers: int) -> Features:
        """The actors write."""
        batches = self.extractor.batches(source)
        samples, batch = require_numbered(batches)
        with self._run(batches.settings()) as run:
            if not run.finished:
                run.begin(self.extractor.first_layout(batches, run.settings), min(batch, samples))
                size = run.shard_batches
                missing = [s for s in range(-(-samples // (size * batch))) if s not in run.done]
                with SampleProgress(samples, self.progress) as bar:
                    bar.resumed(sum(record.rows for record in run.done.values()))
                    for row in self._written(missing, source, run, workers):
                        record = ShardRecord.from_json(json.loads(row["record"]))
                        run.done[row["shard"]] = record
                        bar.advance(record.rows)
                run.finish()
        return Features.load(self.out)

    def stream(self, dataset: Any, preprocess: Preprocess | None) -> Features:
        """The actors give features, this process writes them."""
        samples = dataset.count()
        if not samples:
            raise InputError("source: the ray.data.Dataset is empty; wanted at least one sample")
        batch = min(self.extractor.batch_size, samples)
        with self._run({"kind": "ray.data.Dataset", "samples": samples}) as run:
            if not run.finished:
                first = _batch(dataset.take_batch(1, batch_format="numpy"), preprocess)
                run.begin(self.extractor.layout_of(first, run.settings), batch)
                run.done.clear()  # whether the data set is the one of an earlier run, nobody knows
                mapped = dataset.map_batches(
                    _Stream,
                    batch_size=batch,
                    fn_constructor_args=(preprocess, *self._actor()),
                    **self.pool.sharing(),
                )
                rows = run.shard_batches * batch
                with SampleProgress(samples, self.progress) as bar, _settled(mapped, preserve_order=True):
                    parts = mapped.iter_batches(batch_size=rows, batch_format="numpy")
                    for shard, columns in enumerate(parts):
                        run.commit(shard, _to_block(columns, shard * rows))
                        bar.advance(len(columns["label"]))
                written = sum(record.rows for record in run.done.values())
                if written != samples:
                    raise InputError(
                        f"source: the ray.data.Dataset counted {samples} samples and gave {written}"
                    )
                run.finish()
        return Features.load(self.out)

    def _written(self, missing: list[int], source: Any, run: Run, workers: int) -> Iterator[dict[str, Any]]:
        """A row for each shard, as it is written."""
        import ray

        if not missing:
            return
        constructor = (ray.put(source), str(self.out), run.layout, run.shard_batches, workers, *self._actor())
        # A block for each, so that a dead actor costs one shard.
        shards = self.data.from_items([{"shard": s} for s in missing], override_num_blocks=len(missing))
        written = shards.map(_ShardWriter, fn_constructor_args=constructor, **self.pool.arguments)
        with _settled(written, preserve_order=False):
            yield from written.iter_rows()

    def _run(self, source: dict[str, Any]) -> Run:
        settings = {**self.extractor.settings(), "source": source}
        if self.pool.device is not None:
            settings["device"] = self.pool.device
        return Run(as_path(self.out), settings, self.rows_per_file)

    def _actor(self) -> tuple[Any, ...]:
        import ray

        return ray.put(self.model), self.options, self.pool.device, self.pool.threads, str(Path.cwd())


def _open(dataset: Any, preprocess: Preprocess | None) -> Any:
    from gradfast.data import open_images

    if isinstance(dataset, (str, PathLike)):
        return open_images(dataset, preprocess)
    if preprocess is not None:
        raise InputError("preprocess: got one for a data set that is open; wanted it in the data set")
    return dataset


def _batch(columns: dict[str, Any], preprocess: Preprocess | None) -> Batch:
    """Columns of Ray as a batch; encoded images are decoded."""
    named = {name: _decoded(name, column, preprocess) for name, column in columns.items() if name != "index"}
    if not any(name not in LABEL_KEYS for name in named):
        raise InputError(f"source: the columns are {', '.join(columns)}; wanted one that the model takes")
    return Batch.of(named)


def _decoded(name: str, column: Any, preprocess: Preprocess | None) -> Any:
    if len(column) and isinstance(column[0], bytes):
        steps = preprocess or Preprocess()
        images = [steps(decode(encoded, f"column {name}")) for encoded in column]
        return torch.stack(images)
    return np.array(column)  # a copy: Ray's is read-only


def _to_block(columns: dict[str, Any], first: int) -> Block:
    n = len(columns["label"])
    return Block(
        index=np.arange(first, first + n),
        labels=columns["label"],
        predictions=columns["prediction"],
        flagged=columns["flagged"],
        values=columns["values"],
        logits=columns.get("logits"),
        classes=columns.get("classes"),
    )


@contextmanager
def _settled(dataset: Any, preserve_order: bool) -> Iterator[None]:
    """Rows in the order asked for, and no bars of Ray's own."""
    context = dataset.context  # a data set keeps the one that it was made in; the current one would not do
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = preserve_order, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


def _ray_data() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise InputError(
            f"gradfast.distributed.extract needs Ray Data, which cannot be imported ({error}): pip install '.[ray]' in gradfast's checkout"
        ) from error
    return ray.data
