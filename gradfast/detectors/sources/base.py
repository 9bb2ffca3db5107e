"""What a method reads of a batch: the interface of every source."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gradfast.detectors.sources.taps import Activations, Tap
from gradfast.errors import InputError, describe
from gradfast.models.fingerprint import fingerprint as model_fingerprint

__all__ = ["Fits", "FittedSource", "Source", "fit_in_one_pass", "fit_together"]

Self = TypeVar("Self", bound="Source")


class Source(ABC):
    """Columns per sample, computed from a batch of inputs: scores, one score per layer, or features.

    A score is higher for a sample that is further out of distribution. `columns(x)` runs the model; `of(...)`
    takes activations that several sources share. Sources that `record` need the gradient of the input.

    Args:
        model: maps inputs [B, ...] to logits [B, K]; in eval mode.
        head: name of the last linear layer; None finds it.
        stages: names of the modules that are read layer by layer; None: `default_stages`.
        tap: one to share, in place of model, head and stages.
    """

    name: ClassVar[str]
    needs_fit: ClassVar[bool] = False
    record: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        head: str | None = None,
        stages: Iterable[str] | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._fingerprint: str | None = None
        self.tap = tap or Tap(model, head=head, stages=None if stages is None else tuple(stages))

    @property
    def model(self) -> nn.Module:
        """The model whose activations are read."""
        return self.tap.model

    @property
    def names(self) -> list[str]:
        """The d names of the columns."""
        return [self.name]

    def columns(self, x: Tensor) -> Tensor:
        """[B, d] float32 of inputs [B, ...]; NaN in a sample stays in that sample."""
        return self.of(self.tap(x, record=self.record))

    def of(self, activations: Activations) -> Tensor:
        """[B, d] float32 of one forward pass, which was recorded if the source says `record`."""
        if not self.fitted:
            raise InputError(
                f"{self.name}: not fitted yet; call fit with batches (x, y) of in-distribution samples"
            )
        finite = activations.logits.detach().isfinite().all(1, keepdim=True)
        # Whoever scores may do so under no_grad, which a step along the input's gradient cannot.
        with torch.inference_mode(False), torch.set_grad_enabled(self.record):
            columns = self._columns(activations)
        return columns.detach().float().masked_fill(~finite, torch.nan)

    @abstractmethod
    def _columns(self, activations: Activations) -> Tensor: ...

    def fit(self: Self, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Takes what it needs of in-distribution training batches (x, y); samples of unknown label (y < 0)
        count as the class that the model predicts. One pass, in bounded memory.
        """
        fit_together([self], batches)
        return self

    @property
    def fitted(self) -> bool:
        """Whether columns can be computed."""
        return True

    def settings(self) -> dict[str, Any]:
        """What the columns depend on besides the model, where it is read (`places`) and the training samples, JSON-able."""
        return {}

    def places(self) -> dict[str, Any]:
        """The `head` and the `stages` that were named, JSON-able; empty where both were found."""
        head, stages = self.tap.asked
        named = {"head": head, "stages": None if stages is None else list(stages)}
        return {key: value for key, value in named.items() if value is not None}

    def state(self) -> dict[str, Tensor]:
        """What was fitted."""
        return {}

    def fingerprint(self) -> str:
        """Hex SHA-256 of the model, the settings, the places and what was fitted: equal ones give equal columns."""
        if self._fingerprint is None:
            self._fingerprint = self._digest()
        return self._fingerprint

    def _digest(self) -> str:
        facts = [self.name, self._model_fingerprint, {**self.settings(), **self.places()}]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for key, tensor in sorted(self.state().items()):
            digest.update(f"{key} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def columns_settings(self) -> dict[str, str]:
        """`columns` (the name), `model_fingerprint` and `source_fingerprint`, which detectors compare."""
        return {
            "columns": self.name,
            "model_fingerprint": self._model_fingerprint,
            "source_fingerprint": self.fingerprint(),
        }

    @cached_property
    def _model_fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.settings().items())
        return f"{type(self).__name__}({inside})"


class FittedSource(Source):
    """A source that takes something of in-distribution training samples first."""

    needs_fit = True

    @abstractmethod
    def begin(self) -> None:
        """Forgets what was fitted, before a pass of `update`."""

    @abstractmethod
    def update(self, activations: Activations, labels: Tensor) -> None:
        """Takes one batch of training samples, detached, with labels int64 [B] >= 0."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the pass."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave, in place of a pass over training samples."""
        parameter = next(self.model.parameters(), None)
        self._fingerprint = None
        self._restore(
            {
                key: tensor if parameter is None else tensor.to(parameter.device)
                for key, tensor in state.items()
            }
        )

    @abstractmethod
    def _restore(self, state: Mapping[str, Tensor]) -> None: ...

    @property
    def fitted(self) -> bool:
        return bool(self.state())


def fit_together(sources: Iterable[Source], batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Fits sources in one pass over in-distribution training batches (x, y); those that share a tap share its forward pass.

    Raises:
        InputError: no samples, labels of another shape, or a sample that is not finite.
    """
    fitted = [source for source in sources if isinstance(source, FittedSource)]
    for source in fitted:
        source._fingerprint = None
    if fitted:
        fit_in_one_pass(fitted, batches)


class Fits(Protocol):
    """What takes training samples batch by batch, from the forward passes of a tap."""

    tap: Tap

    def begin(self) -> None: ...

    def update(self, activations: Activations, labels: Tensor) -> None: ...

    def finish(self) -> None: ...


def fit_in_one_pass(fitted: Sequence[Fits], batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """`fit_together` of what is no source too; raises as it does."""
    by_tap: dict[int, list[Fits]] = {}
    for source in fitted:
        by_tap.setdefault(id(source.tap), []).append(source)
        source.begin()
    seen = 0
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError(f"batches: got {describe(batch)}; wanted pairs (x, y) of inputs and labels")
        x, y = batch
        for group in by_tap.values():
            activations = group[0].tap(x).detached()
            labels = _training_labels(activations, y)
            for source in group:
                source.update(activations, labels)
        seen += len(activations)
    if not seen:
        raise InputError("batches: got no samples; wanted in-distribution training samples")
    for source in fitted:
        source.finish()


def _training_labels(activations: Activations, y: Tensor) -> Tensor:
    """int64 [B] >= 0: the model's predictions where they are unknown; raises `InputError` for what cannot be fitted to."""
    labels = torch.as_tensor(y).to(activations.logits.device, torch.int64)
    if labels.shape != (len(activations),):
        raise InputError(f"batches: got labels of shape {list(labels.shape)}; wanted [{len(activations)}]")
    if not bool(activations.logits.isfinite().all()):
        raise InputError("batches: a training sample is not finite; leave it out of the fit")
    classes = activations.logits.shape[1]
    if bool((labels >= classes).any()):
        raise InputError(
            f"batches: got label {int(labels.max())}; wanted less than {classes}, the model's classes"
        )
    return torch.where(labels < 0, activations.predictions, labels)
