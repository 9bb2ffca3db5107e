"""Scores of the logits and of the head, without gradients: maximum softmax, energy, GradNorm, penultimate features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradfast.detectors.sources.base import Source
from gradfast.detectors.sources.taps import Activations

__all__ = ["Energy", "GradNorm", "MaxSoftmax", "Penultimate"]


class MaxSoftmax(Source):
    """-log of the largest softmax probability (Hendrycks & Gimpel, ICLR 2017).

    pytorch-ood's score is minus that probability: the same order, but with ties where float32 rounds it to 1.
    """

    name = "max_softmax"

    def _columns(self, activations: Activations) -> Tensor:
        logits = activations.logits.double()
        return (logits.logsumexp(1) - logits.amax(1))[:, None]


class Energy(Source):
    """-T log sum exp(z / T) of the logits z (Liu, Wang, Owens & Li, NeurIPS 2020, eq. 4)."""

    name = "energy"

    def __init__(self, model: nn.Module, *, temperature: float = 1.0, **shared: Any) -> None:
        super().__init__(model, **shared)
        self.temperature = temperature

    def _columns(self, activations: Activations) -> Tensor:
        t = self.temperature
        return -t * (activations.logits.double() / t).logsumexp(1, keepdim=True)

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


class GradNorm(Source):
    """Minus the L1 norm of the gradient of KL(uniform || softmax) at the head's weight (Huang, Geng & Li, NeurIPS 2021).

    That gradient is the outer product (softmax(z / T) - 1 / K) / T x features', so its L1 norm is the product
    of the two L1 norms: one forward, where pytorch-ood's differentiates the whole model per sample.
    """

    name = "gradnorm"

    def __init__(self, model: nn.Module, *, temperature: float = 1.0, **shared: Any) -> None:
        super().__init__(model, **shared)
        self.temperature = temperature

    def _columns(self, activations: Activations) -> Tensor:
        p = (activations.logits.double() / self.temperature).softmax(1)
        residual = (p - 1 / p.shape[1]).abs().sum(1) / self.temperature
        return -(residual * activations.penultimate.double().abs().sum(1))[:, None]

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


class Penultimate(Source):
    """The input of the last linear layer, [B, F]: gradient-free features for the same H."""

    name = "penultimate"

    @property
    def names(self) -> list[str]:
        return [f"penultimate.{i}" for i in range(self.tap.head.in_features)]

    def _columns(self, activations: Activations) -> Tensor:
        return activations.penultimate
