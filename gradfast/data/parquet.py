"""Encoded images in Parquet."""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gradfast.errors import InputError
from gradfast.places import as_path, is_remote

from .images import ImageError, Preprocess, decode
from .imageset import ImageSet, PathType

__all__ = ["ImageParquet", "splits_of"]

# What the names of files begin with, as Hugging Face's data sets have them (train-00000-of-00002.parquet).
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


class ImageParquet(ImageSet):
    """One Parquet file or a folder of them, with a column of encoded images and, if there, one of integer labels.

    The image column is ``image`` or ``img``, of bytes, or a struct with a field ``bytes`` as Hugging Face datasets
    writes it. The label column is ``label`` or ``labels``. Class names are taken from the schema's metadata key
    ``classes`` (JSON), or from Hugging Face's. One row group at a time is held in memory.

    Args:
        path: the file or the folder.
        preprocess: as for all image sets.
        limit: as for all image sets.
        split: of a folder whose files' names begin with those of several splits, "train" and "test" say, the one that is read.

    Raises:
        InputError: no such file, not Parquet, no such column, a label column that is not of integers, or splits without this one.
    """

    def __init__(
        self, path: PathType, preprocess: Preprocess, limit: int | None = None, split: str = "test"
    ) -> None:
        super().__init__(preprocess, limit)
        path = as_path(path)
        self._paths = _of_split(path, split) if path.is_dir() else [path]
        groups = []  # (file, row group, rows)
        for f, file in enumerate(self._paths):
            metadata = self._open(f).metadata
            groups += [(f, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
            self._check_columns(file, self._open(f).schema_arrow)
        self._groups = groups
        self._ends = list(accumulate(rows for *_, rows in groups))
        metadata = self._open(0).schema_arrow.metadata or {}
        names = metadata.get(b"classes")
        try:
            self.classes = tuple(map(str, json.loads(names))) if names else self._named(metadata)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(
                f"source: {self._paths[0]}: its metadata key classes is no JSON list of names: {error}"
            ) from error
        self._held: tuple[int, list[Any], list[int]] | None = None

    def _named(self, metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
        """The names of a Hugging Face ClassLabel; None where there are none."""
        try:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][self._label]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return tuple(map(str, names)) if isinstance(names, list) else None

    def _open(self, f: int) -> pq.ParquetFile:
        try:
            path = self._paths[f]
            file = path.open("rb") if is_remote(path) else path
            return pq.ParquetFile(file, page_checksum_verification=True)
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: names that are no UTF-8
            raise InputError(f"source: {self._paths[f]} cannot be read as Parquet: {error}") from error

    def _check_columns(self, file: Path, schema: pa.Schema) -> None:
        image = next((name for name in ("image", "img") if name in schema.names), None)
        if image is None:
            raise InputError(
                f"source: {file} has columns {', '.join(schema.names)}; wanted one called image or img"
            )
        kind = schema.field(image).type
        self._struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if not (self._struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"source: {file}: column {image} is of type {kind}; wanted bytes of encoded images"
            )
        self._image = image
        self._label = next((name for name in ("label", "labels") if name in schema.names), None)
        if self._label is not None and not pa.types.is_integer(schema.field(self._label).type):
            kind = schema.field(self._label).type
            raise InputError(f"source: {file}: column {self._label} is of type {kind}; wanted integers")

    def _count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _locate(self, i: int) -> tuple[int, int]:
        group = bisect_right(self._ends, i)
        return group, i - (self._ends[group] - self._groups[group][2])

    def _read(self, i: int) -> tuple[Image.Image, int]:
        group, row = self._locate(i)
        if self._held is None or self._held[0] != group:
            f, g, _ = self._groups[group]
            columns = [self._image] if self._label is None else [self._image, self._label]
            try:
                table = self._open(f).read_row_group(g, columns=columns)
            except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: names that are no UTF-8
                raise ImageError(f"{self._paths[f]}: row group {g} cannot be read: {error}") from error
            images = table[self._image].combine_chunks()
            labels = table[self._label].fill_null(-1).to_pylist() if self._label else [-1] * len(images)
            self._held = group, images, labels
        _, images, labels = self._held
        value = images[row].as_py()
        encoded = value["bytes"] if self._struct and value is not None else value
        if encoded is None:
            raise ImageError(f"{self.where(i)}: the image is null")
        return decode(encoded, self.where(i)), labels[row]

    def where(self, i: int) -> str:
        """The file's path and the row in it."""
        group, row = self._locate(i)
        f = self._groups[group][0]
        before = sum(rows for file, g, rows in self._groups if file == f and g < self._groups[group][1])
        return f"{self._paths[f]}, row {before + row}"

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in self._paths:
            with path.open(
                "rb"
            ) as file:  # the footer: schema, and offset, size and statistics of each column chunk
                file.seek(-8, os.SEEK_END)
                length = int.from_bytes(file.read(4), "little")
                file.seek(-8 - length, os.SEEK_END)
                digest.update(file.read())
        return {"footers": digest.hexdigest(), "image": self._image, "label": self._label}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}  # loader processes read their own row groups


def splits_of(folder: PathType) -> frozenset[str]:
    """Of "train", "validation" and "test", those whose Parquet files lie in a folder, where they are two or more; else none."""
    found = {name for path in as_path(folder).glob("*.parquet") if (name := _split_of(path))}
    return frozenset(found if len(found) > 1 else ())


def _of_split(folder: Path, split: str) -> Sequence[Path]:
    paths, splits = sorted(folder.glob("*.parquet")), splits_of(folder)
    if not splits:
        return paths
    wanted = _SPLITS.get(split, split)
    if wanted not in splits:
        raise InputError(
            f"source: {folder} holds the splits {', '.join(sorted(splits))}; got {split!r}; wanted one of them, or give a file"
        )
    return [path for path in paths if _split_of(path) == wanted]


def _split_of(path: Path) -> str | None:
    return _SPLITS.get(re.split(r"[^a-z]", path.name.lower(), maxsplit=1)[0])
