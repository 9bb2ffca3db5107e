"""Gradient features of a data set: squared norms per sample, contrast row and layer, in memory or read when needed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from gradfast.errors import InputError, describe
from gradfast.places import as_path
from gradfast.selection import select_layers
from gradfast.store import Block, Layout, Manifest, Run, ShardFile, StoreError
from gradfast.store.block import Floats, Ints
from gradfast.store.layout import column_of, fitting_rows
from gradfast.store.run import differences
from gradfast.store.table import Columns, MemoryPart, Part, Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Features"]

# Settings that may differ between features that are put together: where they come from, not what they mean.
_PROVENANCE = ("device", "gradfast", "source", "torch")


class Features:
    """Squared gradient norms of n samples, C contrast rows and L layers, with what identifies the samples.

    Made by `FeatureExtractor.extract`, `load` and `from_arrays`. From disk, only the rows, layers and columns that are
    asked for are read, when they are first asked for, and their checksums are checked then; a `CorruptError` names a
    file that was altered. ``features[rows]`` (a slice, indices or a mask), `select` and `concat` read nothing.

    Attributes:
        layers: the L parameter names.
        settings: how the features were made, JSON-able: ``contrast``, ``loss``, ``classes``, ``layers``, ``dtype``,
            ``model``, ``model_fingerprint``, ``source`` and others; empty if unknown.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout) -> None:
        self._table = Table(parts)
        self._layout = layout
        self._rows: Ints | None = None  # of the table; None: all
        self._class_rows: list[int] | None = None  # of the C that are stored; None: all
        self.layers = layout.layers
        self.settings = layout.settings

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> Features:
        """Opens a directory, by path or URL, that `FeatureExtractor.extract` or `save` wrote.

        Raises:
            StoreError: there is none, the extraction is unfinished, or a newer version wrote it.
            CorruptError: its manifest was altered.
        """
        manifest = Manifest.read(as_path(directory))
        return cls(manifest.shards, manifest.layout)

    @classmethod
    def from_arrays(
        cls,
        values: npt.ArrayLike,
        *,
        layers: Sequence[str],
        labels: npt.ArrayLike | None = None,
        predictions: npt.ArrayLike | None = None,
        logits: npt.ArrayLike | None = None,
        index: npt.ArrayLike | None = None,
        flagged: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Features:
        """Features of arrays or tensors.

        Args:
            values: squared norms [n, C, L], or [n, L] for C = 1.
            layers: the L names, all different.
            labels: integers [n]; default -1, unknown.
            predictions: integers [n]; default the argmax of the logits, else -1.
            logits: [n, K].
            index: integers [n]; default 0 to n - 1.
            flagged: booleans [n]; default: rows of values or logits that are not finite.
            classes: class ids of the rows, integers [C], or [n, C] where each sample has its own.
            settings: how the values were made, JSON-able.

        Raises:
            InputError: a shape or dtype that does not fit the others.
        """
        v = np.asarray(values, dtype=np.float32)
        v = v[:, None, :] if v.ndim == 2 else v
        if v.ndim != 3 or v.shape[2] != len(layers):
            raise InputError(
                f"values: got shape {list(v.shape)} for {len(layers)} layers; wanted [n, C, L] or [n, L]"
            )
        if len(set(layers)) < len(layers):
            raise InputError(f"layers: got {describe(layers)}; wanted names that are all different")
        n, rows, _ = v.shape
        z = None if logits is None else np.asarray(logits, dtype=np.float32)
        if z is not None and (z.ndim != 2 or len(z) != n):
            raise InputError(f"logits: got shape {list(z.shape)}; wanted [{n}, K]")
        finite = np.isfinite(v).all((1, 2)) & (True if z is None else np.isfinite(z).all(1))
        ids = None if classes is None else _integers("classes", classes)
        if ids is not None and ids.shape not in ((rows,), (n, rows)):
            raise InputError(f"classes: got shape {list(ids.shape)}; wanted [{rows}] or [{n}, {rows}]")
        per_sample = ids is not None and ids.ndim == 2
        guess = np.full(n, -1) if z is None else np.where(finite, np.nan_to_num(z).argmax(1), -1)
        block = Block(
            index=_integers("index", np.arange(n) if index is None else index, n),
            labels=_integers("labels", np.full(n, -1) if labels is None else labels, n),
            predictions=_integers("predictions", guess if predictions is None else predictions, n),
            flagged=np.asarray(~finite if flagged is None else flagged, dtype=np.bool_),
            values=v,
            logits=z,
            classes=ids if per_sample else None,
        )
        if block.flagged.shape != (n,):
            raise InputError(f"flagged: got shape {list(block.flagged.shape)}; wanted [{n}]")
        fixed: tuple[int, ...] | str | None = "per sample" if per_sample else None
        if ids is not None and not per_sample:
            fixed = tuple(ids.tolist())
        layout = Layout(tuple(layers), rows, 0 if z is None else z.shape[1], fixed, dict(settings or {}))
        return cls([MemoryPart(block, layout.layers)], layout)

    @staticmethod
    def concat(features: Sequence[Features]) -> Features:
        """All rows of several features, in order.

        The settings are the first one's, but ``source`` lists the sources of all.

        Raises:
            InputError: none, or other layers, classes, logits or settings than the first one's.
        """
        if not features:
            raise InputError("features: got none; wanted at least one")
        first = features[0].layout
        for i, other in enumerate(features):
            differing = list(differences(_meaning(first), _meaning(other.layout)))
            if differing:
                raise InputError(
                    f"features: number {i} has other columns or settings than number 0: {'; '.join(differing)}"
                )
        sources = [f.settings["source"] for f in features if "source" in f.settings]
        settings = {**first.settings, "source": sources} if sources else first.settings
        layout = Layout(first.layers, first.rows, first.logits, first.classes, settings)
        return Features([_FeaturesPart(f) for f in features], layout)

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, C, L), without reading."""
        rows = self._layout.rows if self._class_rows is None else len(self._class_rows)
        return len(self), rows, len(self.layers)

    @property
    def layout(self) -> Layout:
        """Names, sizes and settings of the columns as they are selected."""
        classes = self._layout.classes
        if isinstance(classes, tuple) and self._class_rows is not None:
            classes = tuple(classes[i] for i in self._class_rows)
        return Layout(self.layers, self.shape[1], self._layout.logits, classes, self.settings)

    @cached_property
    def values(self) -> Floats:
        """Squared norms, float32 [n, C, L]. A row whose sample had NaN or infinite inputs is NaN."""
        whole = self._rows is None and self._class_rows is None and self.layers == self._layout.layers
        if whole and len(self._table.parts) == 1 and isinstance(self._table.parts[0], MemoryPart):
            return self._table.parts[0].block.values
        out = np.empty(self.shape, dtype=np.float32)
        columns = [column_of(layer) for layer in self.layers]
        for positions, found in self._table.gather(columns, self._rows):
            for i, name in enumerate(columns):
                out[positions, :, i] = self._of_classes(found[name])
        return out

    @cached_property
    def index(self) -> Ints:
        """Each sample's position in its source, int64 [n]."""
        return self._column("index")

    @cached_property
    def labels(self) -> Ints:
        """int64 [n]; -1 where unknown."""
        return self._column("label")

    @cached_property
    def predictions(self) -> Ints:
        """The class of the largest logit, int64 [n]; -1 where the sample's input was not finite."""
        return self._column("prediction")

    @cached_property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """bool [n]: NaN or infinite inputs, norms or logits."""
        return self._column("flagged")

    @cached_property
    def logits(self) -> Floats | None:
        """float32 [n, K], NaN where the sample's input was not finite; None if not stored."""
        return self._column("logits") if self._layout.logits else None

    @cached_property
    def classes(self) -> Ints | None:
        """Class id of each contrast row, int64 [C], or [n, C] for the top k of each sample; None if rows are no classes."""
        classes = self.layout.classes
        if isinstance(classes, str):
            return self._column("classes")
        return None if classes is None else np.array(classes, dtype=np.int64)

    def __getitem__(self, rows: int | slice | npt.ArrayLike) -> Self:
        """The features of some samples: a slice, indices, or a mask of n booleans."""
        if not isinstance(rows, (int, slice)):
            rows = np.asarray(rows)
            if not rows.size and rows.dtype.kind == "f":  # NumPy's idea of an empty list
                rows = rows.astype(np.int64)
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        return self._view(rows=chosen if self._rows is None else self._rows[chosen])

    def select(
        self,
        layers: str | Sequence[str] | None = None,
        classes: int | np.integer[Any] | Sequence[int] | None = None,
    ) -> Self:
        """The features of some layers and classes.

        Args:
            layers: names, prefixes or glob patterns, as in `grad_norms`; None keeps all.
            classes: ids from `classes`, in the order wanted; None keeps all.

        Raises:
            InputError: a layer or class that is not there, or classes asked of rows that have none.
        """
        view = self._view(layers=select_layers(self.layers, layers))
        if classes is None:
            return view
        known = self.layout.classes
        if not isinstance(known, tuple):
            why = "each sample has classes of its own" if known else "the contrast rows are no classes"
            raise InputError(f"classes: got {describe(classes)}; wanted None, for {why}")
        wanted = [int(classes)] if isinstance(classes, (int, np.integer)) else list(classes)
        unknown = [c for c in wanted if c not in known]
        if unknown or not wanted:
            raise InputError(f"classes: got {wanted}; wanted some of {list(known)}")
        rows = [known.index(c) for c in wanted]
        return view._view(
            class_rows=rows if self._class_rows is None else [self._class_rows[i] for i in rows]
        )

    def numpy(self) -> Floats:
        """`values`."""
        return self.values

    def torch(self) -> Tensor:
        """`values` as a tensor that shares their memory."""
        return torch.from_numpy(self.values)

    def pandas(self) -> pd.DataFrame:
        """A data frame with columns index, label, prediction, flagged, and one per layer and row.

        These are called ``layer/class``, ``layer/row`` where rows are no fixed classes, and ``layer`` where C = 1.
        """
        import pandas as pd

        n, rows, _ = self.shape
        classes = self.layout.classes
        suffixes = (
            [f"/{c}" for c in (classes if isinstance(classes, tuple) else range(rows))] if rows > 1 else [""]
        )
        names = [layer + suffix for layer in self.layers for suffix in suffixes]
        norms = pd.DataFrame(self.values.transpose(0, 2, 1).reshape(n, -1), columns=names)
        about = {
            "index": self.index,
            "label": self.labels,
            "prediction": self.predictions,
            "flagged": self.flagged,
        }
        return pd.concat([pd.DataFrame(about), norms], axis=1)

    def save(self, directory: str | PathLike[str]) -> None:
        """Writes the features to a new directory, in the format of `FeatureExtractor.extract`.

        Raises:
            StoreError: the directory holds features already, is in use, or cannot be written.
        """
        layout = self.layout
        with Run(as_path(directory), self.settings) as run:
            if run.finished or run.layout is not None:
                raise StoreError(f"{directory}: holds features already; wanted a new directory")
            rows = fitting_rows(layout)
            run.begin(layout, rows)
            for shard, first in enumerate(range(0, max(1, len(self)), rows)):
                run.commit(shard, self[first : first + rows]._block())
            run.finish()

    def _block(self) -> Block:
        """All columns in memory."""
        per_sample = self._layout.classes == "per sample"
        classes = self.classes if per_sample else None
        return Block(
            self.index, self.labels, self.predictions, self.flagged, self.values, self.logits, classes
        )

    def verify(self) -> None:
        """Reads every byte of the files that the features lie in, and checks them.

        Raises:
            CorruptError: a file is missing, truncated or altered.
        """
        for part in self._table.parts:
            if isinstance(part, (ShardFile, _FeaturesPart)):
                part.verify()

    def __repr__(self) -> str:
        n, rows, layers = self.shape
        return f"Features({n} samples x {rows} rows x {layers} layers)"

    def _read(self, columns: Sequence[str]) -> Columns:
        """Stored columns by name, of the selected rows and classes."""
        found = self._table.read(columns, self._rows)
        return {
            name: self._of_classes(column) if _has_classes(name) else column for name, column in found.items()
        }

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._read([name])[name]

    def _of_classes(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return column if self._class_rows is None else column[:, self._class_rows]

    def _view(
        self,
        *,
        rows: Ints | None = None,
        layers: tuple[str, ...] | None = None,
        class_rows: list[int] | None = None,
    ) -> Self:
        view = copy.copy(self)
        for name in [
            name for name in vars(view) if not name.startswith("_") and name not in ("layers", "settings")
        ]:
            del view.__dict__[name]  # what was cached
        view._rows = self._rows if rows is None else rows
        view._class_rows = self._class_rows if class_rows is None else class_rows
        view.layers = self.layers if layers is None else layers
        return view


class _FeaturesPart:
    """Features as a part of others."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def __len__(self) -> int:
        return len(self._features)

    def read(self, columns: Sequence[str]) -> Columns:
        return self._features._read(columns)

    def verify(self) -> None:
        self._features.verify()


def _has_classes(column: str) -> bool:
    return column == "classes" or column.startswith(column_of(""))


def _meaning(layout: Layout) -> dict[str, Any]:
    settings = {key: value for key, value in layout.settings.items() if key not in _PROVENANCE}
    return {**layout.to_json(), "settings": settings}


def _integers(name: str, given: npt.ArrayLike, n: int | None = None) -> Ints:
    array = np.asarray(given)
    if array.dtype.kind not in "iu" or (n is not None and array.shape != (n,)):
        wanted = "integers" if n is None else f"integers [{n}]"
        raise InputError(f"{name}: got {array.dtype} of shape {list(array.shape)}; wanted {wanted}")
    return array.astype(np.int64)
