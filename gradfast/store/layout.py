"""The columns of a feature file: their names, types and metadata, and the way there and back.

One column per layer, so that a reader takes only the layers that it wants. Plain Parquet: any reader can read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .block import Block
from .errors import CorruptError, StoreError
from .files import entry

__all__ = ["ROWS_PER_FILE", "SCHEMA_VERSION", "Layout", "column_of", "fitting_rows", "from_arrow"]

_LARGEST = 2**31 - 1  # of an Arrow list
SCHEMA_VERSION = 1

ROWS_PER_FILE = 2048
_BYTES = 2**26


def column_of(layer: str) -> str:
    """The column of a parameter's squared norms."""
    return f"sqnorm/{layer}"


@dataclass(frozen=True)
class Layout:
    """What the columns are.

    Attributes:
        layers: the L parameter names.
        rows: C, contrast rows per sample.
        logits: K, or 0 where logits are not stored.
        classes: class id of each contrast row; None if the rows are no classes; "per sample": a column of its own.
        settings: how the features were made, JSON-able.
    """

    layers: tuple[str, ...]
    rows: int
    logits: int
    classes: tuple[int, ...] | str | None
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For the manifest and the schema's metadata."""
        classes = list(self.classes) if isinstance(self.classes, tuple) else self.classes
        return {
            "schema": SCHEMA_VERSION,
            "layers": list(self.layers),
            "rows": self.rows,
            "logits": self.logits,
            "classes": classes,
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], where: object) -> Layout:
        """The inverse of `to_json`.

        Raises:
            StoreError: written under a newer schema than this version of gradfast knows.
            CorruptError: not what `to_json` gave.
        """
        schema = entry(stored, "schema", int, where=where)
        if schema > SCHEMA_VERSION:
            raise StoreError(
                f"{where}: written with schema {schema}; this gradfast reads up to {SCHEMA_VERSION}: upgrade it"
            )
        rows, logits = (entry(stored, name, int, where=where) for name in ("rows", "logits"))
        if not 1 <= rows <= _LARGEST or not 0 <= logits <= _LARGEST:
            raise CorruptError(
                f"{where}: not what gradfast wrote: {rows!r:.20} rows and {logits!r:.20} logits"
            )
        layers = entry(stored, "layers", list, where=where)
        classes = entry(stored, "classes", list, str, type(None), where=where)
        settings = entry(stored, "settings", dict, where=where)
        if not all(isinstance(layer, str) for layer in layers) or len(set(layers)) < len(layers):
            raise CorruptError(f"{where}: not what gradfast wrote: layers are {layers!r:.60}")
        if isinstance(classes, list):
            if len(classes) != rows or not all(type(c) is int for c in classes):
                raise CorruptError(f"{where}: not what gradfast wrote: classes are {classes!r:.60}")
            classes = tuple(classes)
        elif classes not in (None, "per sample"):
            raise CorruptError(f"{where}: not what gradfast wrote: classes are {classes!r:.60}")
        return cls(tuple(layers), rows, logits, classes, settings)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema; its metadata key ``gradfast`` holds `to_json`."""
        columns = {"index": pa.int64(), "label": pa.int64(), "prediction": pa.int64(), "flagged": pa.bool_()}
        if self.logits:
            columns["logits"] = _vector(pa.float32(), self.logits)
        if self.classes == "per sample":
            columns["classes"] = _vector(pa.int64(), self.rows)
        columns |= {column_of(layer): _vector(pa.float32(), self.rows) for layer in self.layers}
        fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
        return pa.schema(fields, metadata={"gradfast": json.dumps(self.to_json(), sort_keys=True)})

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, before any encoding."""
        per_sample = 8 * self.rows if self.classes == "per sample" else 0
        return 25 + 4 * self.logits + per_sample + 4 * self.rows * len(self.layers)

    def encode(self, block: Block) -> memoryview:
        """A Parquet file of one row group, with a checksum on every page. Equal blocks give equal bytes."""
        columns: list[npt.NDArray[Any]] = [block.index, block.labels, block.predictions, block.flagged]
        if self.logits:
            assert block.logits is not None
            columns.append(block.logits)
        if self.classes == "per sample":
            assert block.classes is not None
            columns.append(block.classes)
        columns += [block.values[:, :, i] for i in range(len(self.layers))]
        arrays = [_to_arrow(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        file = BytesIO()
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=self.schema),
            file,
            row_group_size=max(1, len(block)),
            # Mantissas do not compress; the exponents' fifth is not worth a third of the reading speed.
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )
        return file.getbuffer()


def fitting_rows(layout: Layout, wanted: int = ROWS_PER_FILE) -> int:
    """So many rows, or as many as fit in 64 MiB, for a file is put together in memory."""
    return max(1, min(wanted, _BYTES // layout.row_bytes))


def from_arrow(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column as NumPy, [n] or [n, width]; without a copy where its type allows."""
    array = column.combine_chunks()
    if not pa.types.is_fixed_size_list(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(-1, array.type.list_size)


def _vector(kind: pa.DataType, width: int) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False), width)


def _to_arrow(column: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(column, type=kind)
    flat = pa.array(np.ascontiguousarray(column).reshape(-1), type=kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
