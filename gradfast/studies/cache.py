"""What a study has computed, kept on disk in small parts: a killed run goes on, a new method costs only its own."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Cache", "digest"]

Arrays = dict[str, NDArray[Any]]


def digest(*arrays: NDArray[Any]) -> str:
    """Hex SHA-256 of dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {list(array.shape)}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class Cache:
    """Folders named by what their content depends on.

    Two runs may share one: a part is written beside its place and renamed, whole or not at all. Nothing is ever
    removed; the folder can be deleted at any time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: Mapping[str, Any]) -> Path:
        """The folder of a key, made if need be; the key is written into it, for people."""
        text = json.dumps(key, sort_keys=True, indent=1)
        place = self.root / kind / hashlib.sha256(text.encode()).hexdigest()[:24]
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "key.json").exists():
            _write(place / "key.json", lambda file: file.write(text.encode()))
        return place

    def has(self, folder: Path, part: int) -> bool:
        """Whether a part is there."""
        return _part(folder, part).exists()

    def put(self, folder: Path, part: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps the arrays of a part."""
        _write(_part(folder, part), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def get(self, folder: Path, part: int) -> Arrays | None:
        """The arrays of a part; None if it is not there, or damaged."""
        try:
            with np.load(_part(folder, part), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def by_parts(
        self,
        kind: str,
        key: Mapping[str, Any],
        samples: int,
        size: int,
        compute: Callable[[slice], Mapping[str, NDArray[Any]]],
        advance: Callable[[int], None] = lambda done: None,
    ) -> Arrays:
        """Arrays of all samples, joined along the first axis; parts that are not there are computed.

        Args:
            kind: the folder's folder.
            key: all that the arrays depend on, JSON-able.
            samples: how many there are.
            size: samples in a part.
            compute: arrays of the samples in a slice.
            advance: told how many samples are done, part by part.
        """
        folder = self.folder(kind, {**key, "part": size})
        parts = []
        for number, first in enumerate(range(0, samples, size)):
            rows = slice(first, min(first + size, samples))
            arrays = self.get(folder, number)
            if arrays is None:
                arrays = dict(compute(rows))
                self.put(folder, number, arrays)
            parts.append(arrays)
            advance(rows.stop - rows.start)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npz"


def _write(path: Path, fill: Callable[[Any], Any]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            fill(file)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
