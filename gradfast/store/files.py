"""Files that are there whole or not at all, and JSON that notices when it was altered."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from gradfast.places import is_remote

from .errors import CorruptError, StoreError

__all__ = ["entry", "read_sealed", "sync_folder", "write_atomically", "write_sealed"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, data: bytes | memoryview, scratch: Path) -> None:
    """Writes a file that appears under its name only once all of it is on the disk.

    On an object store, that is how every file is written.

    Args:
        path: where it goes.
        data: its content.
        scratch: a folder on the same file system for the unfinished file.

    Raises:
        StoreError: the disk is full, or refuses; nothing is left behind.
    """
    if is_remote(path):
        try:
            path.write_bytes(bytes(data))
        except OSError as error:
            raise StoreError(_why(path, len(data), error)) from error
        return
    # Of its own name, for a process that was given up for dead may still be writing.
    unfinished = scratch / f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove(unfinished)
        raise StoreError(_why(path, len(data), error)) from error


def sync_folder(path: Path) -> None:
    """Makes the names in a folder last, as `fsync` does for a file's content."""
    if is_remote(path):
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing
            raise
    finally:
        os.close(folder)


def write_sealed(path: Path, content: dict[str, Any], scratch: Path) -> None:
    """Writes JSON with its own SHA-256."""
    text = _canonical(content)
    sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), **content}
    write_atomically(path, (json.dumps(sealed, indent=1) + "\n").encode(), scratch)


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads what `write_sealed` wrote.

    Raises:
        CorruptError: not that, or altered since.
        FileNotFoundError: no such file.
    """
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path}: not what gradfast wrote: {error}") from error
    if seal != hashlib.sha256(_canonical(content).encode()).hexdigest():
        raise CorruptError(f"{path}: altered since it was written, its checksum differs")
    return dict(content)


def entry(stored: Any, name: str, *kinds: type, where: object) -> Any:
    """An entry of an object that was read from JSON; integers are not negative.

    Raises:
        CorruptError: it is not there, or of none of these types.
    """
    value = stored.get(name) if isinstance(stored, dict) else None
    right = type(value) in kinds and (type(value) is not int or value >= 0)
    if not right or not isinstance(stored, dict) or name not in stored:
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise CorruptError(f"{where}: not what gradfast wrote: {name} is {value!r:.60}; wanted {wanted}")
    return value


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # on the failing disk; the first error is the one to tell
        return


def _why(path: Path, size: int, error: OSError) -> str:
    if error.errno in _FULL:
        try:
            free = f", {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
        except OSError:
            free = ""
        return f"{path}: no room for its {size / 1e6:.1f} MB{free} ({error.strerror}); what was written before is kept, make room and run again"
    return f"{path}: cannot be written: {error.strerror or error}"
