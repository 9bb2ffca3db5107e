"""Writing one directory of features by several processes together, as the ranks of a job do.

Every process may write any shard, and claims it first by a lock of its own, which dies with its holder. So a shard is
written by one of them at a time, those of a dead rank are taken over by the others, and ranks may come and go. The
directory is that of `Run`: one process can go on where many were, and the other way round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from gradfast.errors import InputError
from gradfast.places import is_remote

from .errors import CorruptError, InUseError
from .layout import ROWS_PER_FILE, Layout
from .lock import WriterLock
from .run import MANIFEST, Run, read_record

__all__ = ["SharedRun"]

_WAIT = 0.1  # seconds between two looks at what the others do
_LEAVING = 5.0  # seconds that others may take to tidy up


class SharedRun(Run):
    """The right to write to a directory together with others that also have it.

    Args:
        folder: on a file system that all of them see, with locks (NFS since version 3 has them).
        settings: as for `Run`, the same for all.
        rows_per_file: as for `Run`.
        samples: n, of all shards.
        batch: samples in each batch but the last.
        rank: which shards this one takes first; 0 to world - 1.
        world: how many there are, as far as is known.

    Raises:
        InputError: the folder is on an object store.
        InUseError: a run of a single process writes to it.
        MismatchError: it was begun with other settings, or another rank has other settings.
        StoreError: as `Run`.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        rows_per_file: int = ROWS_PER_FILE,
        *,
        samples: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(folder, settings, rows_per_file)
        if is_remote(folder):
            raise InputError(
                f"out: got {folder}; wanted a directory of a file system, for ranks need its locks"
            )
        self._shared = WriterLock(self._progress / "lock", shared=True)
        self._lock = self._shared
        self._samples, self._batch = samples, batch
        self._rank, self._world = rank, world

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _LEAVING
        while not self._entered(last=time.monotonic() > deadline):
            time.sleep(_WAIT)
        return self

    def _entered(self, last: bool) -> bool:
        try:
            super().__enter__()
        except InUseError:  # perhaps only by the last of an earlier job, which tidies up
            if last:
                raise
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished:
            self._clear()
        super().__exit__(kind, error, trace)

    def begin(self, layout: Layout, batch: int) -> None:
        """As `Run.begin`; the first to come fixes the layout, and the others' are compared with it."""
        with self._alone("begin"):
            if self.layout is None and (self._progress / "run.json").is_file():
                self._resume()
            super().begin(layout, batch)

    @property
    def shards(self) -> int:
        """How many there are in all, once begun."""
        rows = self.shard_batches * self._batch
        return -(-self._samples // rows)

    def missing(self) -> list[int]:
        """Shards that nobody has written yet: this rank's share first, then what the others have not come to."""
        left = [shard for shard in range(self.shards) if not self._written(shard)]
        return sorted(left, key=lambda shard: ((shard - self._rank) % self._world != 0, shard))

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Whether the shard is this process's to write, which nobody else may meanwhile."""
        lock = WriterLock(self._record_path(shard).with_suffix(".lock"))
        try:
            lock.__enter__()
        except InUseError:
            yield False
            return
        try:
            yield not self._written(shard)
        finally:
            lock.__exit__(None, None, None)

    def rows_before(self, shard: int) -> int:
        """Samples in the shards before this one, written or not."""
        return min(self._samples, shard * self.shard_batches * self._batch)

    def wait(self) -> None:
        """A moment, for the others to get on."""
        time.sleep(_WAIT)

    def finish(self) -> None:
        """Writes the manifest, unless another rank has; the last to leave tidies up."""
        with self._alone("finish"):
            if not (self.folder / MANIFEST).is_file():
                super().finish()
        self.finished = True

    def _clear(self) -> None:
        if self._shared.alone():
            super()._clear()
            self._shared.__exit__(None, None, None)

    def _written(self, shard: int) -> bool:
        if shard in self.done:
            return True
        try:
            self.done[shard] = read_record(self._record_path(shard))
        except (FileNotFoundError, CorruptError):  # in either case it is written anew
            return False
        return True

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """One rank at a time."""
        while True:
            lock = WriterLock(self._progress / f"{what}.lock")
            try:
                lock.__enter__()
                break
            except InUseError:
                self.wait()
        try:
            yield
        finally:
            lock.__exit__(None, None, None)
