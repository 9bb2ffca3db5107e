"""`save` and `load` of every detector."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch import Tensor

from gradfast.detectors.calibration import Calibrator
from gradfast.detectors.errors import NotFittedError
from gradfast.detectors.persistence import load_state, save_state

if TYPE_CHECKING:
    from gradfast.detectors.inputs import FeatureSchema

__all__ = ["Saved"]

Self = TypeVar("Self", bound="Saved")
_PLAIN = (str, int, float, bool, type(None))


class Saved(ABC):
    """The part of a detector that knows its files."""

    schema_: FeatureSchema

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes `detector.json`, `classifier.skops` (no pickle) and what a source was fitted to; see `load`.

        Raises:
            NotFittedError: there is nothing to save.
            InputError: something is in the way.
        """
        name = type(self).__name__
        if not hasattr(self, "schema_"):
            raise NotFittedError(f"{name}: not fitted yet, nothing to save")
        params = self.get_params(deep=False)  # type: ignore[attr-defined]
        calibrator = getattr(self, "calibrator_", None)
        fitted = {
            "threshold": getattr(self, "threshold_", None),
            "calibrator": None if calibrator is None else calibrator.to_json(),
            "classes": np.asarray(getattr(self, "classes_", [0, 1])).tolist(),
            "n_in": getattr(self, "n_in_", 0),
            "n_out": getattr(self, "n_out_", 0),
            "n_features_in": getattr(self, "n_features_in_", None),
        }
        # A parameter that JSON has no form for, such as a head, is a part of what skops saves.
        values = {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}
        plain = {key: value if isinstance(value, _PLAIN) else None for key, value in values.items()}
        settings, tensors = self._tensors()
        state = {"params": plain, "fitted": fitted, "source": settings}
        payload = self._payload()
        return save_state(Path(directory), name, state, self.schema_, payload, tensors, overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], directory: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Self:
        """A detector saved by `save`; `Detector.load` takes any kind.

        Types outside scikit-learn and gradfast must be named in `trusted`.

        Raises:
            DetectorFileError: no detector there, a damaged one, one of another kind, or types that are not trusted.
        """
        kinds = {kind.__name__: kind for kind in _kinds(cls)}
        state, schema, payload, tensors = load_state(Path(directory), sorted(kinds), trusted)
        kind = kinds[state["kind"]]
        params = dict(state["params"])
        params.update(kind._lost_params(payload, params))
        detector: Self = kind(**params)
        fitted = state["fitted"]
        detector.schema_ = schema
        for name, value in (
            ("threshold_", fitted["threshold"]),
            ("calibrator_", fitted["calibrator"] and Calibrator.from_json(fitted["calibrator"])),
            ("classes_", np.asarray(fitted["classes"])),
            ("n_in_", fitted["n_in"]),
            ("n_out_", fitted["n_out"]),
            ("n_features_in_", fitted["n_features_in"]),
        ):
            if value is not None:
                setattr(detector, name, value)
        detector._restore(payload)
        detector._restore_tensors(state["source"], tensors)
        return detector

    def _payload(self) -> Any:
        """What was fitted, as scikit-learn estimators, NumPy arrays and dicts of them."""
        return {}

    def _restore(self, payload: Any) -> None:  # noqa: B027  # nothing to take where there is no payload
        """Takes what `_payload` gave."""

    def _tensors(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and state of the source that is read, if one is."""
        return {}, {}

    def _restore_tensors(  # noqa: B027  # nothing to take where there is no source
        self, settings: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        """Takes what `_tensors` gave."""

    @classmethod
    def _lost_params(cls, payload: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Parameters that JSON could not hold, from the payload."""
        return {}


def _kinds(cls: type[Any]) -> list[type[Any]]:
    """The class, unless it is abstract, and all below it."""
    own = [] if getattr(cls, "__abstractmethods__", None) else [cls]
    return own + [kind for below in cls.__subclasses__() for kind in _kinds(below)]
