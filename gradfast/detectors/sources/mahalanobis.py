"""The Mahalanobis detector in the four forms of the tables: of one layer or of all, without and with preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradfast.detectors.sources.base import FittedSource
from gradfast.detectors.sources.gaussians import ClassGaussians
from gradfast.detectors.sources.preprocess import Std, check_step, stepped
from gradfast.detectors.sources.taps import Activations

__all__ = ["Mahalanobis", "MahalanobisFE", "MahalanobisP", "MahalanobisPFE", "layers_of"]


class Mahalanobis(FittedSource):
    """Half the squared Mahalanobis distance of the penultimate features to the nearest class mean.

    Lee, Lee, Lee & Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", NeurIPS 2018: "vanilla", (V) in the tables. Fitted to training features and labels in one pass.
    pytorch-ood's keeps all features and inverts the sum of products plus 1e-6 in float32, and its layer-wise form
    takes only `nn.Sequential`, which it runs anew for each layer.
    """

    name = "mahalanobis"
    every_layer: ClassVar[bool] = False

    def __init__(self, model: nn.Module, **shared: Any) -> None:
        super().__init__(model, **shared)
        self._gaussians: list[ClassGaussians] = []
        self._ready = False

    @property
    def names(self) -> list[str]:
        if not self.every_layer:
            return [self.name]
        return [f"{self.name}.{layer}" for layer in layer_names(self.tap, len(self._gaussians))]

    def begin(self) -> None:
        self._gaussians, self._ready = [], False

    def update(self, activations: Activations, labels: Tensor) -> None:
        if not self._gaussians:
            layers = len(layers_of(activations)) if self.every_layer else 1
            self._gaussians = [ClassGaussians() for _ in range(layers)]
        classes = activations.logits.shape[1]
        for gaussians, features in zip(self._gaussians, self._features(activations), strict=True):
            gaussians.update(features, labels, classes)

    def finish(self) -> None:
        for gaussians in self._gaussians:
            gaussians.finish()
        self._ready = True

    @property
    def fitted(self) -> bool:
        return self._ready

    def _columns(self, activations: Activations) -> Tensor:
        layers = zip(self._gaussians, self._features(activations), strict=True)
        return torch.stack([gaussians.half_distance(features) for gaussians, features in layers], 1)

    def _features(self, activations: Activations) -> list[Tensor]:
        if not self.every_layer:
            return [activations.penultimate]
        return layers_of(activations, len(self._gaussians))

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        layers = 1 + max(int(key.split(".")[0]) for key in state)
        self._gaussians = [
            ClassGaussians.of(state[f"{i}.whitening"], state[f"{i}.centres"]) for i in range(layers)
        ]
        self._ready = True

    def state(self) -> dict[str, Tensor]:
        return {
            f"{i}.{key}": tensor for i, g in enumerate(self._gaussians) for key, tensor in g.state().items()
        }


class MahalanobisFE(Mahalanobis):
    """The distance at every stage, a column each: Lee et al.'s feature ensemble, (FE) in the tables.

    The weights of the layers come from a logistic regression on known outliers.
    """

    name = "mahalanobis_fe"
    every_layer = True


class MahalanobisP(Mahalanobis):
    """`Mahalanobis` after a step towards the nearest class mean, Lee et al., eq. 3: (P) in the tables.

    `eps`: the step, in units of pixels in [0, 1] if `std` is what inputs were divided by. The paper picks it on
    outliers, from 0 to 0.01; here it is given.
    """

    name = "mahalanobis_p"
    record = True

    def __init__(self, model: nn.Module, *, eps: float = 0.0014, std: Std = None, **shared: Any) -> None:
        super().__init__(model, **shared)
        self.eps, self.std = eps, check_step(eps, std)

    def _columns(self, activations: Activations) -> Tensor:
        columns = []
        for layer, gaussians in enumerate(self._gaussians):
            score = gaussians.half_distance(self._features(activations)[layer])
            if self.eps:
                moved = self.tap(stepped(activations, score, self.eps, self.std))
                score = gaussians.half_distance(self._features(moved)[layer])
            columns.append(score.detach())
        return torch.stack(columns, 1)

    def settings(self) -> dict[str, Any]:
        return {"eps": self.eps, "std": self.std}


class MahalanobisPFE(MahalanobisP):
    """Feature ensemble after a step per layer, each towards that layer's nearest mean: (P+FE) in the tables."""

    name = "mahalanobis_p_fe"
    every_layer = True


def layers_of(activations: Activations, count: int | None = None) -> list[Tensor]:
    """Features [B, D_i] layer by layer: the stages, and the penultimate features unless the last stage is just them.

    `count`: how many there were when that was decided.
    """
    layers = [*activations.stages, activations.penultimate]
    if count is not None:
        return layers[:count]
    last = activations.stages[-1]
    same = last.shape == activations.penultimate.shape and torch.allclose(last, activations.penultimate)
    return layers[:-1] if same else layers


def layer_names(tap: Any, count: int) -> list[str]:
    """Names of the `count` layers of `layers_of`."""
    return [*tap.stages, "penultimate"][:count]
