"""One writer per directory."""

from __future__ import annotations

import fcntl
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from .errors import InUseError, StoreError

__all__ = ["WriterLock"]

_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock._release()


# A forked child (a loader's worker) shares the lock, and would keep it for some seconds after its parent was killed.
os.register_at_fork(after_in_child=_forget_in_child)


class WriterLock:
    """An exclusive `flock` on a file, which the kernel drops when its holder dies, however that happens.

    The file tells who holds it. It may be deleted by its holder, also before release.

    Args:
        path: the file, in a folder of the directory that it stands for.
        shared: let others hold it that also share it.

    Raises:
        InUseError: another process, or another writer in this one, holds it.
        StoreError: the file cannot be made.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self._path = path
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def __enter__(self) -> Self:
        folder = self._path.parent.parent
        try:
            while self._fd < 0:
                self._fd = self._try()
            _held.add(self)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError as error:
            who = self._holder()
            raise InUseError(
                f"{folder}: in use by another run ({who}); wait for it or give another directory"
            ) from error
        except OSError as error:
            self._release()
            raise StoreError(f"{folder}: cannot be written: {error.strerror}") from error
        return self

    def alone(self) -> bool:
        """Makes a shared lock exclusive if nobody else holds it; else it is lost. Of several who try, the last succeeds."""
        if self._fd < 0:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _try(self) -> int:
        """The locked file, or -1 where its last holder deleted it in between."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(fd, self._mode | fcntl.LOCK_NB)
            if os.path.samestat(self._path.stat(), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def _holder(self) -> str:
        try:
            return self._path.read_text(errors="replace").strip() or "not known which"
        except OSError:
            return "not known which"

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _held.discard(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
