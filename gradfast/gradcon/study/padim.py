"""A Gaussian of a given network's features at every position, in the manner of PaDiM.

Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization" (ICPR workshops, 2021).
Theirs: networks of ImageNet, at the first stage's resolution, 100 to 550 features drawn, the map smoothed. Here: any network with
``layer1`` to ``layer3``, at the second stage's resolution, all features up to ``dimensions``, the map as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from gradfast.errors import InputError

__all__ = ["PatchGaussian"]

_STAGES = ("layer1", "layer2", "layer3")
_RIDGE = 0.01  # PaDiM's, on the covariances' diagonals


class PatchGaussian:
    """One Gaussian per position, fitted to normal images; an image's score is its largest Mahalanobis distance.

    Args:
        network: with stages ``layer1`` to ``layer3`` (a ResNet); maps float images [B, 3, H, W] in [0, 1]. Put into eval mode.
        normal: uint8 images [n, C, H, W], n at least 2; one channel is repeated thrice.
        dimensions: features kept at each position, drawn by ``seed`` where there are more.
        batch_size: images at a time.

    Raises:
        InputError: a network without these stages, or fewer than two images.
    """

    def __init__(
        self,
        network: nn.Module,
        normal: Tensor,
        *,
        dimensions: int = 112,
        seed: int = 0,
        batch_size: int = 100,
    ) -> None:
        missing = [name for name in _STAGES if not isinstance(getattr(network, name, None), nn.Module)]
        if missing:
            raise InputError(
                f"features: {type(network).__name__} has no {', '.join(missing)}; wanted a ResNet's layer1 to layer3"
            )
        if len(normal) < 2:
            raise InputError(f"normal: got {len(normal)} images; wanted at least 2 to fit a covariance")
        self._network, self._batch_size = network.eval(), batch_size
        channels = self._maps(normal[:1]).shape[1]
        self._kept = torch.randperm(channels, generator=Generator().manual_seed(seed))[:dimensions]
        total = products = torch.zeros((), dtype=torch.float64)
        for z in self._features(normal):
            total = total + z.sum(0)
            products = products + torch.einsum("npi,npj->pij", z, z)
        mean = total / len(normal)
        scatter = products - len(normal) * torch.einsum("pi,pj->pij", mean, mean)
        covariance = scatter / (len(normal) - 1) + _RIDGE * torch.eye(mean.shape[1], dtype=mean.dtype)
        self._mean, self._root = mean, torch.linalg.cholesky(covariance)

    def __call__(self, images: Tensor) -> NDArray[np.float64]:
        """Scores [n] of uint8 images [n, C, H, W]; higher is more anomalous."""
        found = []
        for z in self._features(images):
            centred = (z - self._mean).permute(1, 2, 0)
            solved = torch.linalg.solve_triangular(self._root, centred, upper=False)
            found.append(solved.square().sum(1).sqrt().amax(0))
        scores: NDArray[np.float64] = torch.cat(found).numpy()
        return scores

    def _features(self, images: Tensor) -> Iterator[Tensor]:
        """[n, positions, features] in float64, for batches of n images."""
        for part in images.split(self._batch_size):
            yield self._maps(part)[:, self._kept].flatten(2).transpose(1, 2).double()

    @torch.no_grad()
    def _maps(self, images: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}
        handles = [
            getattr(self._network, name).register_forward_hook(
                lambda _module, _args, out, name=name: found.__setitem__(name, out)
            )
            for name in _STAGES
        ]
        x = images.float() / 255
        try:
            self._network(x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1))
        finally:
            for handle in handles:
                handle.remove()
        height, width = found["layer2"].shape[2:]
        return torch.cat(
            [
                F.adaptive_avg_pool2d(found["layer1"], (height, width)),
                found["layer2"],
                F.interpolate(found["layer3"], (height, width)),
            ],
            1,
        )
