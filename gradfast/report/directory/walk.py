"""Which files of a directory a report reads. Links are not followed: a page is passed on, and a link may lead anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradfast.store.run import MANIFEST, PROGRESS

__all__ = ["Found", "walk"]

_DEEPEST = 4  # a GradCON study keeps its cells at work/DATA/MODEL/CELL


@dataclass(frozen=True)
class Found:
    """A file, or a folder of features: where it is, its name below the directory, and its size in bytes (a folder's is 0)."""

    path: Path
    name: str
    size: int

    @property
    def folder(self) -> str:
        """The name of the folder that it is in; "" for the directory itself."""
        return self.name.rpartition("/")[0]

    @property
    def suffix(self) -> str:
        """The ending of the name in lower case."""
        return self.path.suffix.lower()


def walk(directory: Path) -> Iterator[Found]:
    """Files by name, those of a folder before its subfolders'; a folder of features is one thing. Hidden ones are left out."""
    if _holds_features(directory):
        yield Found(directory, directory.resolve().name, 0)
        return
    yield from _below(directory, "", _DEEPEST)


def _below(folder: Path, prefix: str, depth: int) -> Iterator[Found]:
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_symlink())
    for path in entries:
        if path.is_file():
            yield Found(path, prefix + path.name, path.stat().st_size)
    for path in entries:
        if path.is_dir() and _holds_features(path):
            yield Found(path, prefix + path.name, 0)
        elif path.is_dir() and depth:
            yield from _below(path, f"{prefix}{path.name}/", depth - 1)


def _holds_features(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / PROGRESS / "run.json").is_file()
