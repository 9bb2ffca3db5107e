"""Detectors on inputs: bound to a model, they take batches and loaders, as pytorch-ood's do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor, nn

from gradfast.data.batches import as_batches
from gradfast.data.samples import Batch, map_leaves
from gradfast.detectors.inputs import join
from gradfast.detectors.readers import Reader, read_inputs
from gradfast.detectors.sets import is_stream
from gradfast.detectors.sources.left_out import FOLDS
from gradfast.errors import InputError

if TYPE_CHECKING:
    from gradfast.detectors.inputs import FeatureSchema

__all__ = ["Bindable"]

Self = TypeVar("Self", bound="Bindable")


class Bindable(ABC):
    """The part of a detector that runs a model: pytorch-ood's interface.

    `isinstance(d, pytorch_ood.api.Detector)` holds where pytorch-ood is installed, which is not imported for it.
    """

    requires_fit: ClassVar[bool] = True
    hyperparameter_space: ClassVar[dict[str, list[Any]]] = {}
    info: ClassVar[None] = None  # pytorch-ood's records; ours are in `gradfast.detectors.registry`
    schema_: FeatureSchema
    _reader: Reader | None = None

    def bind(self: Self, model: nn.Module, **settings: Any) -> Self:
        """Ties the detector to a model, from whose inputs it then makes its own features; returns self.

        `sklearn.base.clone` keeps the tie. It is not saved: bind a loaded detector again.

        Args:
            model: maps inputs to logits [B, K]; in eval mode.
            **settings: for a detector of norms those of `FeatureExtractor` (a fitted one knows its contrast, loss and
                layers); for one of a source those of `make_source`; and `batch_size`.

        Raises:
            InputError: another model, or other settings, than the detector was fitted to.
        """
        reader = self._make_reader(model, settings)
        known = getattr(self, "schema_", None)
        # A source that is yet to be fitted is compared when it scores.
        if known is not None and not reader.needs_fit:
            known.require_settings(reader.settings, "model")
        self._reader = reader
        return self

    @abstractmethod
    def _make_reader(self, model: nn.Module, settings: dict[str, Any]) -> Reader: ...

    @property
    def bound(self) -> bool:
        """Whether the detector is tied to a model."""
        return self._reader is not None

    @property
    def reader(self) -> Reader:
        """What makes features of inputs; raises `InputError` if the detector is not bound."""
        if self._reader is None:
            raise InputError(
                f"{type(self).__name__}: is not bound to a model, so it takes features and no inputs; call bind(model)"
            )
        return self._reader

    def __sklearn_clone__(self: Self) -> Self:
        params = self.get_params(deep=False)  # type: ignore[attr-defined]
        twin = type(self)(**{name: clone(value, safe=False) for name, value in params.items()})
        twin._reader = self._reader
        return twin

    def _features_of(self, given: Any) -> Any:
        """Features as they are; of a tensor of inputs, where the detector is bound, those that it makes itself."""
        return read_inputs(self.reader, given) if self._are_inputs(given) else given

    def _are_inputs(self, given: Any) -> bool:
        # Features have three dimensions at most: more are images, also where there is no model to run.
        images = isinstance(given, (Tensor, np.ndarray)) and given.ndim > 3
        return images or (self.bound and isinstance(given, Tensor))

    def predict_inputs(self, x: Any) -> Tensor:
        """Scores [B] float32 of a batch of inputs, on their device; higher = more out of distribution."""
        scores = torch.from_numpy(np.asarray(self._scores_of(read_inputs(self.reader, x)), dtype=np.float32))  # type: ignore[attr-defined]
        return scores.to(x.device) if isinstance(x, Tensor) else scores

    def score_stream(self, source: Any, workers: int = 0) -> Iterator[NDArray[np.float64]]:
        """Scores batch by batch, [B] float64 each, in bounded memory; `source` as `FeatureExtractor.extract` takes it."""
        for batch in self._batches(source, workers):
            yield self._scores_of(read_inputs(self.reader, batch.inputs))  # type: ignore[attr-defined]

    def fit_features(self: Self, features: Any, labels: Any) -> Self:
        """Fits to features [n, ...] with labels [n], those below 0 known outliers, as in pytorch-ood."""
        y = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if y.ndim != 1 or len(y) != len(features):
            raise InputError(f"labels: got shape {list(y.shape)} for {len(features)} samples, wanted [n]")
        if not (y >= 0).any():
            raise InputError("labels: got no in-distribution samples (labels of at least 0)")
        outside = features[y < 0] if (y < 0).any() else None
        fitted: Self = self._fit_sets(features[y >= 0], outside)  # type: ignore[attr-defined]
        return fitted

    def predict_features(self, features: Any) -> Tensor:
        """Scores [n] float32 of features as a tensor, as in pytorch-ood."""
        return torch.from_numpy(np.asarray(self._scores_of(features), dtype=np.float32))  # type: ignore[attr-defined]

    def __call__(self, x: Any) -> Any:
        """`predict`."""
        return self.predict(x)  # type: ignore[attr-defined]

    @property
    def device(self) -> torch.device | None:
        """Where the bound model is."""
        parameter = None if self._reader is None else next(self._reader.model.parameters(), None)
        return None if parameter is None else parameter.device

    def to(self: Self, device: torch.device | str) -> Self:
        """Moves the bound model; returns self."""
        self.reader.model.to(device)
        return self

    def get_hyperparameters(self) -> dict[str, Any]:
        """Values of what pytorch-ood's searches may vary."""
        return {name: getattr(self, name) for name in self.hyperparameter_space}

    def set_hyperparameters(self: Self, **values: Any) -> Self:
        """Sets some of `hyperparameter_space`."""
        for name, value in values.items():
            if name not in self.hyperparameter_space:
                raise InputError(
                    f"{name}: no hyperparameter; wanted some of {list(self.hyperparameter_space)}"
                )
            setattr(self, name, value)
        return self

    def _streams(self, given: Any) -> bool:
        inputs = self._are_inputs(given)
        if not inputs and not is_stream(given):
            return False
        _ = self.reader  # says that it is missing
        if inputs:
            raise InputError(
                f"features_in: got a bare tensor of shape {list(given.shape)}; wanted a loader of batches (x, y)"
            )
        return True

    def _fit_stream(self: Self, source: Any) -> Self:
        """Fits to batches (x, y) of inputs, of which those with y < 0 are known outliers."""
        reader: Any = self.reader
        if reader.needs_fit:
            if isinstance(source, Iterator):
                raise InputError(
                    "loader: got an iterator, which ends after one pass; wanted a DataLoader or a list"
                )
            # The threshold and H want columns of samples that the source has not seen.
            twins = FOLDS if getattr(self, "learns", False) else 1
            reader = reader.fit(_inside_batches(self._batches(source)), twins)
        parts: list[Any] = []
        labels = []
        for batch in self._batches(source):
            parts.append(read_inputs(reader, batch.inputs))
            labels.append(batch.labels)
        if not parts:
            raise InputError("loader: it gave no samples; wanted at least one")
        return self.fit_features(join(parts), torch.cat(labels))

    def _batches(self, source: Any, workers: int = 0) -> Iterable[Batch]:
        if isinstance(source, Iterator):
            return map(Batch.of, source)
        return as_batches(source, self.reader.batch_size, workers).iterate()


def _inside_batches(batches: Iterable[Batch]) -> Iterator[tuple[Any, Tensor]]:
    for batch in batches:
        inside = batch.labels >= 0
        if bool(inside.any()):
            yield map_leaves(itemgetter(inside), batch.inputs), batch.labels[inside]
