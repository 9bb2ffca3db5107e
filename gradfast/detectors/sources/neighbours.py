"""Distances to in-distribution training samples: the k-th nearest neighbour, and local intrinsic dimensionality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradfast.detectors.sources.base import FittedSource
from gradfast.detectors.sources.mahalanobis import layer_names, layers_of
from gradfast.detectors.sources.reservoir import Reservoir
from gradfast.detectors.sources.taps import Activations
from gradfast.errors import InputError, describe

__all__ = ["Knn", "Lid"]


class _Neighbours(FittedSource):
    """References of training samples, and k."""

    def __init__(self, model: nn.Module, *, k: int, references: int, seed: int, **shared: Any) -> None:
        super().__init__(model, **shared)
        if k < 1 or references <= k:
            raise InputError(
                f"k: got {describe(k)} of {describe(references)} references; wanted 1 <= k < references"
            )
        self.k, self.references, self.seed = k, references, seed
        self._reservoir: Reservoir | None = None
        self._held: list[Tensor] = []

    def begin(self) -> None:
        self._reservoir, self._held = Reservoir(self.references, self.seed), []

    def finish(self) -> None:
        assert self._reservoir is not None
        held, self._reservoir = self._reservoir.rows(), None
        if len(held[0]) <= self.k:
            raise InputError(
                f"batches: got {len(held[0])} training samples; {self.name} wanted more than k = {self.k}"
            )
        self._held = held

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self._held = [state[key] for key in sorted(state, key=int)]

    def state(self) -> dict[str, Tensor]:
        return {str(i): rows for i, rows in enumerate(self._held)}

    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "references": self.references, "seed": self.seed}


class Knn(_Neighbours):
    """Distance of the penultimate features, scaled to unit length, to the k-th nearest training sample (Sun et al., ICML 2022).

    `k`: the paper's for CIFAR-10. `references`: training samples that are kept, a random part if there are more.
    pytorch-ood's KNN gives the same scores; it searches on all cores at once for every batch and keeps all
    features, so the few lines are taken here, with one matrix product per batch.
    """

    name = "knn"

    def __init__(
        self, model: nn.Module, *, k: int = 50, references: int = 50_000, seed: int = 0, **shared: Any
    ) -> None:
        super().__init__(model, k=k, references=references, seed=seed, **shared)

    def update(self, activations: Activations, labels: Tensor) -> None:
        assert self._reservoir is not None
        self._reservoir.add(_unit(activations.penultimate))

    def _columns(self, activations: Activations) -> Tensor:
        # float64, for 1 - cosine loses half the digits
        cosines = _unit(activations.penultimate) @ self._held[0].T
        kth = cosines.topk(self.k, 1).values[:, -1:]
        return (2 - 2 * kth).clamp_min(0).sqrt()


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=1)


class Lid(_Neighbours):
    """Local intrinsic dimensionality of a sample at every stage, a column each (Ma et al., ICLR 2018, eq. 4).

    The maximum likelihood estimate -1 / mean(log(r_i / r_k)) of the distances r_1 <= ... <= r_k to the k nearest
    in-distribution samples. The paper takes these from the sample's own minibatch of 100; here they are fixed
    `references` from the training set, so that a score does not depend on its batch. The weights of the layers
    come from a logistic regression on known outliers or attacks.
    """

    name = "lid"

    def __init__(
        self, model: nn.Module, *, k: int = 20, references: int = 1000, seed: int = 0, **shared: Any
    ) -> None:
        super().__init__(model, k=k, references=references, seed=seed, **shared)

    @property
    def names(self) -> list[str]:
        return [f"lid.{layer}" for layer in layer_names(self.tap, len(self._held))]

    def update(self, activations: Activations, labels: Tensor) -> None:
        assert self._reservoir is not None
        if not self._reservoir.seen:
            self._count = len(layers_of(activations))
        self._reservoir.add(*layers_of(activations, self._count))

    def _columns(self, activations: Activations) -> Tensor:
        layers = zip(layers_of(activations, len(self._held)), self._held, strict=True)
        return torch.stack([self._estimate(f.detach().double(), held.double()) for f, held in layers], 1)

    def _estimate(self, features: Tensor, held: Tensor) -> Tensor:
        r = torch.cdist(features, held, compute_mode="donot_use_mm_for_euclid_dist")
        # A reference is no neighbour of itself; batches differ in the last digits.
        itself = r <= 1e-5 * held.norm(dim=1).clamp_min(1e-12)
        nearest = r.masked_fill(itself, torch.inf).topk(self.k, 1, largest=False).values
        logs = (nearest / nearest[:, -1:]).log()
        return -1 / logs.mean(1).clamp_max(-1e-12)
