"""Writing a directory of features, shard by shard, so that a killed run can go on.

::

    DIR/part-00000.parquet ...     features, each file complete from the moment that it has its name
    DIR/_manifest.json             layout, settings and checksums; there once all shards are
    DIR/_progress/                 while unfinished: lock, run.json (layout and settings), a record per finished shard

A shard counts as finished when its record is there, which is written after the shard. Nothing in the finished files
depends on when, where or how often the run was interrupted. Shards are independent of each other.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from gradfast.places import is_remote

from .block import Block
from .errors import CorruptError, MismatchError, StoreError
from .files import entry, read_sealed, sync_folder, write_atomically, write_sealed
from .layout import ROWS_PER_FILE, Layout, fitting_rows
from .lock import WriterLock
from .shard import Checksums, ShardFile, ShardRecord

__all__ = ["MANIFEST", "PROGRESS", "Manifest", "Run", "differences"]

MANIFEST = "_manifest.json"
PROGRESS = "_progress"


class Manifest:
    """A finished directory: its layout and its shards in order."""

    def __init__(self, layout: Layout, shards: tuple[ShardFile, ...]) -> None:
        self.layout = layout
        self.shards = shards

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads ``_manifest.json``.

        Raises:
            StoreError: there is none, or it has a newer schema.
            CorruptError: it was altered.
        """
        path = folder / MANIFEST
        try:
            stored = read_sealed(path)
        except OSError as error:
            raise StoreError(_no_manifest(folder)) from error
        layout = Layout.from_json(stored, path)
        records = [ShardRecord.from_json(shard, path) for shard in entry(stored, "shards", list, where=path)]
        for record in records:
            if Path(record.name).name != record.name or record.name in ("", ".", ".."):
                raise CorruptError(
                    f"{path}: names the file {record.name!r}; wanted files of this directory only"
                )
        samples = entry(stored, "samples", int, where=path)
        if not records or sum(record.rows for record in records) != samples:
            raise CorruptError(
                f"{path}: not what gradfast wrote: {len(records)} files do not hold {samples} samples"
            )
        return cls(
            layout, tuple(ShardFile(folder / record.name, record, layout.schema) for record in records)
        )


def _no_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such directory of features"
    progress = folder / PROGRESS
    if progress.is_dir():
        done = len(list(progress.glob("part-*.json")))
        return f"{folder}: the extraction is unfinished, {done} shards are written; run it again to go on"
    return f"{folder}: holds no features, for it has no {MANIFEST}"


class Run:
    """The right to write to a directory, and what is written there so far.

    Args:
        folder: made if it does not exist.
        settings: what the features depend on. A directory that was begun with others is refused.
        rows_per_file: at most; files end where a batch ends.

    Raises:
        InUseError: another run writes to it.
        MismatchError: it was begun with other settings.
        StoreError: it cannot be written, or holds Parquet files of another origin.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], rows_per_file: int = ROWS_PER_FILE) -> None:
        self.folder = folder
        self.rows_per_file = rows_per_file
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))  # as it is when read back
        self.layout: Layout | None = None
        self.shard_batches = 0
        self.finished = False
        self.done: dict[int, ShardRecord] = {}
        self._progress = folder / PROGRESS
        # An object store has no locks; whoever writes there sees to it that nobody else does.
        self._lock: WriterLock | nullcontext[None] = (
            nullcontext() if is_remote(folder) else WriterLock(self._progress / "lock")
        )

    def __enter__(self) -> Self:
        manifest, begun = self.folder / MANIFEST, self._progress / "run.json"
        others = next(self.folder.glob("part-*.parquet"), None)
        if others is not None and not begun.is_file() and not manifest.is_file():
            raise StoreError(
                f"{self.folder}: holds {others.name} of another origin; wanted an empty or new directory"
            )
        if manifest.is_file() and not self._progress.exists():
            self._resume_finished()  # without a lock: a finished directory may be read-only
            return self
        if is_remote(self._progress):
            self._progress.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        try:
            if manifest.is_file():
                self._resume_finished()
                self._clear()
            elif begun.is_file():
                self._resume()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.layout is None and not self.finished:  # not begun: the directory is as free as before
            self._clear()
        self._lock.__exit__(kind, error, trace)

    def begin(self, layout: Layout, batch: int) -> None:
        """Fixes the layout and, by the size of the first batch, how many batches make a shard.

        In a run that goes on, both are as they were, and the layout is compared.

        Raises:
            MismatchError: the run that went before had another layout.
        """
        if self.layout is None:
            batches = max(1, fitting_rows(layout, self.rows_per_file) // batch)
            content = {**layout.to_json(), "rows_per_file": self.rows_per_file, "shard_batches": batches}
            write_sealed(self._progress / "run.json", content, self._progress)
            self.layout, self.shard_batches = layout, batches
        elif self.layout.to_json() != layout.to_json():
            raise MismatchError(_differs(self.folder, self.layout.to_json(), layout.to_json()))

    def gaps(self) -> Iterator[tuple[int, int | None]]:
        """Ranges of shards to write, in order; the last is open: as many as there are samples for."""
        after = max(self.done, default=-1) + 1
        missing = [i for i in range(after) if i not in self.done]
        for i in missing:
            yield i, i + 1
        yield after, None

    def rows_before(self, shard: int) -> int:
        """Samples in the shards before this one, which are all written."""
        return sum(self.done[i].rows for i in range(shard))

    def commit(self, shard: int, block: Block) -> None:
        """Writes a shard; when this returns it is on the disk.

        Raises:
            StoreError: no room, or the disk refuses.
        """
        assert self.layout is not None
        self.done[shard] = write_shard(self.folder, self.layout, shard, block)

    def finish(self) -> None:
        """Writes the manifest and removes what only an unfinished run needs."""
        assert self.layout is not None
        shards = [self.done[i].to_json() for i in range(len(self.done))]
        manifest = {
            **self.layout.to_json(),
            "samples": sum(record.rows for record in self.done.values()),
            "flagged": sum(record.flagged for record in self.done.values()),
            "shards": shards,
        }
        write_sealed(self.folder / MANIFEST, manifest, self._progress)
        self._clear()
        self.finished = True

    def _resume_finished(self) -> None:
        self._refuse_others(
            Manifest.read(self.folder).layout, self.rows_per_file
        )  # what is done is not written anew
        self.finished = True

    def _resume(self) -> None:
        stored = read_sealed(self._progress / "run.json")
        layout = Layout.from_json(stored, self.folder)
        rows, batches = (
            entry(stored, name, int, where=self.folder) for name in ("rows_per_file", "shard_batches")
        )
        self._refuse_others(layout, rows)
        self.layout, self.shard_batches = layout, batches
        for path in self._progress.glob("part-*.json"):
            record = self._checked(path)
            if record is not None:
                self.done[int(path.stem.removeprefix("part-"))] = record

    def _checked(self, path: Path) -> ShardRecord | None:
        """A finished shard; None, and it is written again, if it was lost or damaged since."""
        try:
            record = read_record(path)
            ShardFile(self.folder / record.name, record).verify()
        except FileNotFoundError:  # another rank found it damaged
            return None
        except CorruptError:
            path.unlink(missing_ok=True)
            return None
        return record

    def _refuse_others(self, layout: Layout, rows_per_file: int) -> None:
        stored = {**layout.settings, "rows_per_file": rows_per_file}
        given = {**self.settings, "rows_per_file": self.rows_per_file}
        if stored != given:
            raise MismatchError(_differs(self.folder, stored, given))

    def _clear(self) -> None:
        # The lock goes last: while it is there, no other run believes the directory free.
        for path in sorted(self._progress.iterdir(), key=lambda path: path.name == "lock"):
            path.unlink()
        if (
            is_remote(self._progress) and not self._progress.is_dir()
        ):  # of an object store, gone with its content
            return
        try:
            self._progress.rmdir()
        except OSError as error:
            if (
                error.errno != errno.ENOTEMPTY
            ):  # the next run has made its lock there already, and will clear it
                raise
        sync_folder(self.folder)

    def _record_path(self, shard: int) -> Path:
        return _record_path(self._progress, shard)


def write_shard(folder: Path, layout: Layout, shard: int, block: Block) -> ShardRecord:
    """Writes a shard of a run that has begun, and its record; when this returns both are on the disk.

    For those to whom the holder of the run gives the work.

    Raises:
        StoreError: no room, or the disk refuses.
    """
    progress = folder / PROGRESS
    encoded = layout.encode(block)
    name = _shard_name(shard)
    record = ShardRecord(name, len(block), int(block.flagged.sum()), len(encoded), Checksums.of(encoded))
    write_atomically(folder / name, encoded, progress)
    write_sealed(_record_path(progress, shard), record.to_json(), progress)
    return record


def differences(stored: Any, given: Any, name: str = "") -> Iterable[str]:
    """Says each value in which two JSON-able structures differ, by its dotted name."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in sorted({*stored, *given}):
            yield from differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given:
        yield f"{name} was {_short(stored)}, is {_short(given)}"


def _differs(folder: Path, stored: dict[str, Any], given: dict[str, Any]) -> str:
    what = "; ".join(differences(stored, given))
    return f"{folder}: was begun with other settings: {what}; wanted the same, or another directory"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_record(path: Path) -> ShardRecord:
    """The record of a shard.

    Raises:
        CorruptError: altered, or of another file than its own shard's.
        FileNotFoundError: no such record.
    """
    record = ShardRecord.from_json(read_sealed(path), path)
    if record.name != f"{path.stem}.parquet":
        raise CorruptError(f"{path}: names the file {record.name!r}; wanted {path.stem}.parquet")
    return record


def _record_path(progress: Path, shard: int) -> Path:
    return progress / (Path(_shard_name(shard)).stem + ".json")


def _shard_name(shard: int) -> str:
    return f"part-{shard:05d}.parquet"
