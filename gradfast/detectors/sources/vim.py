"""ViM: the norm of what the principal space leaves over, as one more logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradfast.detectors.sources.base import FittedSource
from gradfast.detectors.sources.reservoir import Reservoir
from gradfast.detectors.sources.taps import Activations
from gradfast.errors import InputError, describe

__all__ = ["Vim"]


class Vim(FittedSource):
    """Virtual logit minus the log-sum-exp of the logits, by pytorch-ood's `ViM` on features (Wang et al., CVPR 2022).

    `dimension` of the principal space: None takes the authors' rule, 1000 from 1500 features up, 512 from 768 up, else
    half of them. `references`: training samples that it is fitted to, a random part if there are more.

    Raises:
        InputError: pytorch-ood is not installed (`pip install '.[ood]' in gradfast's checkout`).
    """

    name = "vim"

    def __init__(
        self,
        model: nn.Module,
        *,
        dimension: int | None = None,
        references: int = 50_000,
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(model, **shared)
        try:
            from pytorch_ood.detector import ViM
        except ImportError as error:
            raise InputError(
                f"vim: needs pytorch-ood ({error}): pip install '.[ood]' in gradfast's checkout"
            ) from error
        self._kind: type[Any] = ViM
        self.dimension, self.references, self.seed = dimension, references, seed
        self._reservoir: Reservoir | None = None
        self._vim: Any = None
        self._restored: dict[str, Tensor] = {}

    def begin(self) -> None:
        self._reservoir, self._vim, self._restored = Reservoir(self.references, self.seed), None, {}

    def update(self, activations: Activations, labels: Tensor) -> None:
        assert self._reservoir is not None
        self._reservoir.add(activations.penultimate)

    def finish(self) -> None:
        assert self._reservoir is not None
        (features,), self._reservoir = self._reservoir.rows(), None
        width = features.shape[1]
        dimension = self.dimension or (1000 if width >= 1500 else 512 if width >= 768 else max(1, width // 2))
        if not 0 < dimension < width:
            raise InputError(
                f"dimension: got {describe(self.dimension)}; wanted 1 to {width - 1}, for {width} features"
            )
        self._vim = self._make(dimension)
        self._vim.fit_features(features, torch.zeros(len(features), dtype=torch.int64))

    def _make(self, dimension: int) -> Any:
        head = self.tap.head
        bias = head.bias if head.bias is not None else head.weight.new_zeros(len(head.weight))
        return self._kind(None, dimension, head.weight, bias)

    def _columns(self, activations: Activations) -> Tensor:
        if self._vim is None:
            # Restored: the head is known now that the model has run.
            null_space = self._restored["null_space"]
            self._vim = self._make(null_space.shape[0] - null_space.shape[1])
            self._vim.principal_subspace, self._vim.alpha = null_space, float(self._restored["alpha"])
        scores: Tensor = self._vim.predict_features(activations.penultimate)
        return scores[:, None]

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self._vim, self._restored = None, dict(state)

    def state(self) -> dict[str, Tensor]:
        if self._vim is None:
            return self._restored
        alpha = torch.tensor(self._vim.alpha, dtype=torch.float64)
        return {"null_space": self._vim.principal_subspace, "alpha": alpha}

    def settings(self) -> dict[str, Any]:
        return {"dimension": self.dimension, "references": self.references, "seed": self.seed}
