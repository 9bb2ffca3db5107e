"""ODIN."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradfast.detectors.sources.base import Source
from gradfast.detectors.sources.preprocess import Std, check_step, stepped
from gradfast.detectors.sources.taps import Activations
from gradfast.errors import InputError, describe

__all__ = ["Odin"]


class Odin(Source):
    """-log of the largest softmax probability at temperature T, after a step that raises it (Liang, Li & Srikant, ICLR 2018).

    Defaults: the paper's temperature and its step for DenseNet-BC on CIFAR-10; the paper tunes both on outliers.
    pytorch-ood's ODIN takes a forward pass of its own, and gives the probability in float32, which at T = 1000
    varies in its last digits only; here the pass is shared and the logarithm is taken in float64.
    """

    name = "odin"
    record = True

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1000.0,
        eps: float = 0.0014,
        std: Std = None,
        **shared: Any,
    ) -> None:
        super().__init__(model, **shared)
        if not temperature > 0:
            raise InputError(f"temperature: got {describe(temperature)}; wanted a number above 0")
        self.temperature, self.eps, self.std = temperature, eps, check_step(eps, std)

    def _columns(self, activations: Activations) -> Tensor:
        if self.eps:
            moved = stepped(activations, self._score(activations.logits), self.eps, self.std)
            activations = self.tap(moved)
        return self._score(activations.logits)[:, None]

    def _score(self, logits: Tensor) -> Tensor:
        scaled = logits.double() / self.temperature
        return scaled.logsumexp(1) - scaled.amax(1)

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "eps": self.eps, "std": self.std}
