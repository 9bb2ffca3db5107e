"""What a detector is given: matrices of squared norms or logits, and the schema that says which features they
are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradfast.errors import InputError

__all__ = [
    "FeatureSchema",
    "PreparationWarning",
    "check_folds",
    "column_matrix",
    "count",
    "join",
    "logit_matrix",
    "norm_matrix",
    "predictions_of",
    "schema_of",
    "usable_rows",
]

# The settings of an extraction that change what its numbers mean: others are refused.
_COMPARED_SETTINGS = ("model_fingerprint", "contrast", "loss", "classes", "columns", "source_fingerprint")
# Those that may move the numbers: others are warned of. A JPEG pass is left out, for it can make sets alike.
_PREPARATION = ("size", "channels", "mean", "std")
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


class PreparationWarning(UserWarning):
    """Features whose images were prepared, or whose norms were computed, in another way than those of the fit."""


@dataclass(frozen=True)
class FeatureSchema:
    """Which features a detector knows: `rows` contrast rows by `columns` layers, and where they came from.

    `layers` holds the parameters' names (empty for plain arrays, which carry none), `settings` those of the
    extraction.
    """

    rows: int
    columns: int
    layers: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def require(
        self,
        other: FeatureSchema,
        argument: str,
        why: str = "not the features that the detector was fitted to",
    ) -> None:
        """Raises `InputError` naming what differs in `other`; what either does not know is not compared."""
        differing = []
        if (self.rows, self.columns) != (other.rows, other.columns):
            differing.append(
                f"got {other.rows} contrast rows x {other.columns} layers, wanted {self.rows} x {self.columns}"
            )
        elif self.layers and other.layers and self.layers != other.layers:
            at, (got, wanted) = next(
                (i, pair)
                for i, pair in enumerate(zip(other.layers, self.layers, strict=True))
                if pair[0] != pair[1]
            )
            differing.append(f"layer {at} is {got!r}, wanted {wanted!r}")
        differing += self._differing(other.settings)
        if differing:
            raise InputError(f"{argument}: {why}: " + "; ".join(differing))

    def require_settings(self, settings: Mapping[str, Any], argument: str) -> None:
        """Raises `InputError` if features of these settings would be refused, whatever their shape."""
        differing = self._differing(settings)
        if differing:
            raise InputError(f"{argument}: not what the detector was fitted to: " + "; ".join(differing))

    def warn_of_preparation(self, other: FeatureSchema, argument: str) -> None:
        """Warns, as `PreparationWarning`, where images or norms of `other` were made in another way; names what differs."""
        ours, theirs = _preparation(self.settings), _preparation(other.settings)
        differing = [
            f"{key} {theirs[key]}, not {ours[key]}"
            for key in ours
            if key in theirs and ours[key] != theirs[key]
        ]
        if differing:
            warnings.warn(
                f"{argument}: prepared in another way than what the detector was fitted to ({'; '.join(differing)});"
                " its scores and its threshold may not hold",
                PreparationWarning,
                stacklevel=5,
            )

    def _differing(self, settings: Mapping[str, Any]) -> list[str]:
        return [
            f"{key.replace('_', ' ')} is {_short(settings[key])}, wanted {_short(self.settings[key])}"
            for key in _COMPARED_SETTINGS
            if key in self.settings and key in settings and self.settings[key] != settings[key]
        ]


def _short(value: Any) -> str:
    """The value for a message, with eight digits of each digest."""
    return _DIGEST.sub(r"\1", repr(value))


def _preparation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of how images became tensors, and the dtype of the operands."""
    steps = settings.get("preprocess") or {}
    known = {key: steps[key] for key in _PREPARATION if key in steps}
    return {**known, "dtype": settings["dtype"]} if "dtype" in settings else known


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of features that a schema keeps."""
    kept = {key: settings[key] for key in (*_COMPARED_SETTINGS, "dtype") if key in settings}
    source = settings.get("source")
    # Features that were put together list the sources of all.
    steps = [
        part.get("preprocess") if isinstance(part, Mapping) else None
        for part in (source if isinstance(source, list) else [source])
    ]
    if steps and isinstance(steps[0], Mapping) and all(other == steps[0] for other in steps):
        kept["preprocess"] = dict(steps[0])
    return kept


def schema_of(features: Any) -> FeatureSchema:
    """Schema of `Features`, `GradNorms`, or an array [n, d] or [n, C, L]."""
    # `Features` knows its shape without reading its values from disk.
    shape: Any = (
        np.shape(features) if isinstance(features, (list, tuple)) else getattr(features, "shape", None)
    )
    if shape is None:
        shape = _values_of(features).shape
    if len(shape) not in (2, 3):
        raise InputError(
            f"features: got shape {list(shape)}, wanted [n, d] or [n, contrast rows, layers]."
            " Reshape your data: one row per sample"
        )
    settings = getattr(features, "settings", None) or {}
    return FeatureSchema(
        rows=int(shape[1]) if len(shape) == 3 else 1,
        columns=int(shape[-1]),
        layers=tuple(getattr(features, "layers", ())),
        settings=_kept(settings),
    )


def norm_matrix(features: Any, argument: str = "features") -> NDArray[np.float64]:
    """Squared norms [n, C * L] float64 of `Features`, `GradNorms` or an array [n, d] or [n, C, L]."""
    values = _as_float64(_values_of(features))
    if values.ndim not in (2, 3):
        raise InputError(
            f"{argument}: got shape {list(values.shape)}, wanted [n, d] or [n, contrast rows, layers]"
        )
    flat = values.reshape(len(values), -1)
    if np.any(flat < 0):
        # scikit-learn's checks look for these opening words.
        raise InputError(
            f"Negative values in data passed to {argument}: it holds negative values, wanted squared norms"
        )
    return flat


def column_matrix(features: Any, argument: str = "features") -> NDArray[np.float64]:
    """Columns [n, d] float64 of any sign, of `SourceColumns`, `Features`, or an array [n, d] or [n, C, L]."""
    values = _as_float64(_values_of(features))
    if values.ndim not in (2, 3):
        raise InputError(f"{argument}: got shape {list(values.shape)}, wanted columns [n, d]")
    return values.reshape(len(values), -1)


def logit_matrix(features: Any, argument: str = "features") -> NDArray[np.float64]:
    """Logits [n, K] float64 of `Features`, `GradNorms`, columns that are logits, or an array [n, K]; NaN is kept."""
    logits = features if _is_array(features) else getattr(features, "logits", None)
    if (getattr(features, "settings", None) or {}).get("columns") == "logits":
        logits = features.values
    if logits is None:
        raise InputError(f"{argument}: got features without logits, wanted logits [n, K]")
    values = _as_float64(logits)
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(
            f"{argument}: got logits of shape {list(values.shape)}, wanted [n, K] with K >= 2."
            " Reshape your data: one row per sample"
        )
    return values


def usable_rows(matrix: NDArray[np.float64], argument: str) -> NDArray[np.float64]:
    """The rows without NaN or infinity; warns of those left out, raises `InputError` if none is left."""
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.any():
        raise InputError(
            f"{argument}: got {len(matrix)} samples of which none is finite, wanted some to fit to"
        )
    if not finite.all():
        left_out = int((~finite).sum())
        warnings.warn(
            f"{argument}: {left_out} of {len(matrix)} samples are not finite and are left out of the fit",
            stacklevel=3,
        )
    return matrix[finite]


def _values_of(features: Any) -> Any:
    # A tensor is an array here, although it has an attribute `values` too (a method, for sparse ones).
    return features if _is_array(features) else getattr(features, "values", features)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach") or isinstance(value, (list, tuple))


def _as_float64(values: Any) -> NDArray[np.float64]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values, dtype=np.float64)


def predictions_of(features: Any) -> NDArray[np.int64] | None:
    """The model's classes [n], from `predictions` or the largest of `logits`; None where features have neither."""
    predictions = getattr(features, "predictions", None)
    if predictions is not None:
        return np.asarray(predictions, dtype=np.int64)
    logits = None if _is_array(features) else getattr(features, "logits", None)
    return None if logits is None else np.nan_to_num(_as_float64(logits)).argmax(axis=1)


def check_folds(folds: Any) -> None:
    """Raises `InputError` if `folds` is neither None nor an int of at least 2."""
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, Integral) or folds < 2):
        raise InputError(f"folds: got {folds!r}, wanted None or an int of at least 2")


def count(features: Any) -> int:
    """n, the number of samples."""
    return len(features) if hasattr(features, "__len__") else len(_values_of(features))


def join(parts: Sequence[Any]) -> Any:
    """Features of several batches or sets as one: by their own `concat`, else as arrays."""
    if len(parts) == 1:
        return parts[0]
    if hasattr(type(parts[0]), "concat"):
        return type(parts[0]).concat(list(parts))
    return np.concatenate([np.asarray(part) for part in parts])
