"""One Parquet file of features: checksums that a lazy reader can check without reading all of it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gradfast.places import is_remote

from .errors import CorruptError
from .files import entry
from .layout import from_arrow

__all__ = ["Checksums", "ShardFile", "ShardRecord"]

_TAIL = 8  # of a Parquet file: the footer's length and the magic bytes
_PIECE = 2**22


@dataclass(frozen=True)
class Checksums:
    """CRC-32 of each column chunk, in order, and of the footer, which says where they are.

    Together they cover every byte that decides a value; Parquet's own page checksums leave out page headers and footer.
    """

    columns: tuple[int, ...]
    footer: int

    @classmethod
    def of(cls, encoded: memoryview) -> Checksums:
        """Of a Parquet file in memory."""
        metadata = pq.ParquetFile(pa.BufferReader(encoded)).metadata
        start = len(encoded) - _footer_bytes(encoded[-_TAIL:])
        return cls(tuple(zlib.crc32(encoded[a:b]) for a, b in _chunks(metadata)), zlib.crc32(encoded[start:]))

    def to_text(self) -> str:
        """Eight hex digits each, the footer's last."""
        return " ".join(f"{crc:08x}" for crc in (*self.columns, self.footer))

    @classmethod
    def from_text(cls, text: str) -> Checksums:
        """The inverse of `to_text`."""
        *columns, footer = (int(word, 16) for word in text.split())
        return cls(tuple(columns), footer)


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest knows about a file.

    Attributes:
        name: the file's name.
        rows: samples in it.
        flagged: those of them whose row is not finite.
        size: bytes.
        checksums: of its parts.
    """

    name: str
    rows: int
    flagged: int
    size: int
    checksums: Checksums

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "file": self.name,
            "rows": self.rows,
            "flagged": self.flagged,
            "bytes": self.size,
            "crc32": self.checksums.to_text(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], where: object = "record") -> ShardRecord:
        """The inverse of `to_json`.

        Raises:
            CorruptError: not that.
        """
        name, text = (entry(stored, key, str, where=where) for key in ("file", "crc32"))
        rows, flagged, size = (entry(stored, key, int, where=where) for key in ("rows", "flagged", "bytes"))
        try:
            checksums = Checksums.from_text(text)
        except ValueError as error:
            raise CorruptError(f"{where}: not what gradfast wrote: crc32 is {text!r:.60}") from error
        return cls(name, rows, flagged, size, checksums)


@dataclass(frozen=True)
class ShardFile:
    """A file of features, of which each part is checked before it is believed."""

    path: Path
    record: ShardRecord
    schema: pa.Schema | None = None  # what its columns should be, where that is known

    def __len__(self) -> int:
        return self.record.rows

    def read(self, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """These columns, [rows] or [rows, width].

        Raises:
            CorruptError: the file is missing, truncated or altered.
        """
        try:
            with _open(self.path) as file:
                parquet = self._open(file)
                order = {name: i for i, name in enumerate(parquet.schema_arrow.names)}
                if missing := [name for name in columns if name not in order]:
                    raise CorruptError(f"{self.path}: has no column {missing[0]}")
                for name in columns:
                    found = parquet.schema_arrow.field(order[name]).type
                    if self.schema is not None and found != self.schema.field(name).type:
                        raise CorruptError(
                            f"{self.path}: column {name} is of type {found}; wanted {self.schema.field(name).type}"
                        )
                self._check_columns(file, parquet.metadata, [order[name] for name in columns])
                table = parquet.read(columns=list(columns))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptError(f"{self.path}: cannot be read: {error}") from error
        return {name: from_arrow(table[name]) for name in columns}

    def verify(self) -> None:
        """Checks all of the file.

        Raises:
            CorruptError: as `read`.
        """
        try:
            with _open(self.path) as file:
                metadata = self._open(file).metadata
                self._check_columns(file, metadata, range(metadata.num_columns))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptError(f"{self.path}: cannot be read: {error}") from error

    def _open(self, file: BinaryIO) -> pq.ParquetFile:
        size = file.seek(0, 2)
        if size != self.record.size:
            raise CorruptError(f"{self.path}: has {size} bytes, was written with {self.record.size}")
        file.seek(size - _TAIL)
        start = size - _footer_bytes(file.read(_TAIL))
        if start < 0 or _crc32(file, start, size) != self.record.checksums.footer:
            raise CorruptError(
                f"{self.path}: its footer was altered since it was written, the checksum differs"
            )
        return pq.ParquetFile(file)

    def _check_columns(self, file: BinaryIO, metadata: pq.FileMetaData, numbers: Sequence[int]) -> None:
        chunks, crcs = list(_chunks(metadata)), self.record.checksums.columns
        if len(chunks) != len(crcs) or metadata.num_rows != self.record.rows:
            raise CorruptError(
                f"{self.path}: has {metadata.num_rows} rows in {len(chunks)} columns, was written with {self.record.rows} in {len(crcs)}"
            )
        for number in numbers if chunks else ():  # a file without rows may have no row group
            if _crc32(file, *chunks[number]) != crcs[number]:
                name = metadata.schema.column(number).path.removesuffix(".list.element")
                raise CorruptError(
                    f"{self.path}: column {name} was altered since it was written, the checksum differs"
                )


def _open(path: Path) -> BinaryIO:
    """The file as Arrow opens it, so that its threads read without Python, which may have ended before they do."""
    return path.open("rb") if is_remote(path) else cast(BinaryIO, pa.OSFile(str(path)))


def _footer_bytes(tail: bytes | memoryview) -> int:
    return int.from_bytes(tail[:4], "little") + _TAIL


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    """First byte and end of each column chunk; the file has one row group, or none if it has no rows."""
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            yield chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size


def _crc32(file: BinaryIO, start: int, stop: int) -> int:
    file.seek(start)
    crc = 0
    for first in range(start, stop, _PIECE):
        crc = zlib.crc32(file.read(min(_PIECE, stop - first)), crc)
    return crc
