"""Extraction by the ranks of a job, which share a file system and nothing else."""

from __future__ import annotations

import os
from os import PathLike
from typing import Any

import torch

from gradfast.data.batches import Batches
from gradfast.errors import InputError, describe
from gradfast.extractor import FeatureExtractor, check_order, check_rows_per_file, report_flagged
from gradfast.features import Features
from gradfast.places import as_path
from gradfast.progress import SampleProgress
from gradfast.store import SharedRun
from gradfast.store.layout import ROWS_PER_FILE

__all__ = ["extract_ranks", "rank_and_world", "require_numbered"]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks: of torch.distributed, else of the environment, else (0, 1).

    Raises:
        InputError: ``RANK`` or ``WORLD_SIZE`` is set to no such number.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, given)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise InputError(
            f"environment: got RANK={given[0]} and WORLD_SIZE={given[1]}; wanted 0 <= RANK < WORLD_SIZE"
        )
    return rank, world


def extract_ranks(
    extractor: FeatureExtractor,
    source: Any,
    out: str | PathLike[str],
    *,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
    workers: int = 0,
    rows_per_file: int = ROWS_PER_FILE,
) -> Features:
    """Extracts one source to one directory by several processes, each of which calls this with the same arguments.

    ::

        # torchrun --nproc-per-node 4 script.py
        features = gradfast.distributed.extract_ranks(FeatureExtractor(model), "images/", "features/")

    A rank writes every ``world_size``-th shard and then what others have not come to. Shards are claimed by file locks,
    not by messages: no process group is needed, a rank that dies is made up for by the others, and when all are
    dead, any number of them can be started to go on. The files are byte for byte those of one process (on the same kind
    of machine with as many threads). Returns when all of the features are there.

    Args:
        extractor: as for a single process; its model and settings are the same in every rank.
        source: as for `FeatureExtractor.extract`, but of known length and batch size: no iterable.
        out: on a file system that all ranks see.
        rank: which one this is; None asks torch.distributed, then ``RANK``.
        world_size: how many there are; None asks torch.distributed, then ``WORLD_SIZE``.
        progress: rank 0 shows a bar of what all have done.
        workers: as for `FeatureExtractor.extract`, in each rank.
        rows_per_file: as for `FeatureExtractor.extract`.

    Raises:
        InputError: as `FeatureExtractor.extract`; a source whose samples are not numbered in advance; a rank
            outside the world.
        InUseError: a run of a single process writes to ``out``.
        MismatchError: ``out`` was begun with, or another rank has, another model, data or settings.
        ModelError: as `FeatureExtractor.extract`.
        StoreError: as `FeatureExtractor.extract`.

    Warns:
        FlaggedWarning: in rank 0, lists the flagged samples.
    """
    found = rank_and_world() if rank is None or world_size is None else (rank, world_size)
    rank, world = found[0] if rank is None else rank, found[1] if world_size is None else world_size
    if not 0 <= rank < world:
        raise InputError(f"rank: got {describe(rank)} of {describe(world)}; wanted 0 to world_size - 1")
    check_rows_per_file(rows_per_file)
    batches = extractor.batches(source, workers)
    samples, batch = require_numbered(batches)
    settings = {**extractor.settings(), "source": batches.settings()}
    shared = SharedRun(
        as_path(out), settings, rows_per_file, samples=samples, batch=batch, rank=rank, world=world
    )
    with shared as run:
        if not run.finished:
            run.begin(extractor.first_layout(batches, run.settings), min(batch, samples))
            with SampleProgress(samples, progress and rank == 0) as bar:
                bar.resumed(_rows(run))
                _fill_all(extractor, run, batches, bar)
            run.finish()
    features = Features.load(out)
    if rank == 0:
        report_flagged(features)
    return features


def require_numbered(batches: Batches) -> tuple[int, int]:
    """Samples and samples per batch, where shards can be entered anywhere.

    Raises:
        InputError: the order differs from run to run, or the samples are not numbered.
    """
    check_order(batches)
    if batches.samples is None or batches.batch is None:
        raise InputError(
            f"source: {batches.settings()['kind']} does not say how many samples it has, or its batches differ in size; "
            "wanted a data set of known length, arrays, a path, or a DataLoader with a batch size"
        )
    return batches.samples, batches.batch


def _fill_all(extractor: FeatureExtractor, run: SharedRun, batches: Batches, bar: SampleProgress) -> None:
    """Writes shards until none is missing, by whomever."""
    shown = _rows(run)
    while missing := run.missing():
        wrote = False
        for shard in missing:
            with run.claim(shard) as mine:
                if not mine:
                    continue
                # The last shard ends where the source does.
                stop = shard + 1 if shard + 1 < run.shards else None
                extractor.fill(run, batches, shard, stop, bar)
                shown += run.done[shard].rows
                wrote = True
            others = _rows(run) - shown
            bar.advance(others)
            shown += others
        if not wrote:
            run.wait()
    bar.advance(_rows(run) - shown)


def _rows(run: SharedRun) -> int:
    return sum(record.rows for record in run.done.values())
