"""One Gaussian per class with a shared covariance, fitted in one pass over batches."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ClassGaussians"]


class ClassGaussians:
    """Means of each class and the covariance that they share (Lee et al., NeurIPS 2018, eq. 1), in float64.

    As there, the precision is the pseudo-inverse, so that a direction without any variance counts nothing.
    """

    def __init__(self) -> None:
        self._shift: Tensor | None = None
        self.centres: Tensor | None = None  # [classes that occurred, r], whitened
        self.whitening: Tensor | None = None  # [D, r]

    @classmethod
    def of(cls, whitening: Tensor, centres: Tensor) -> ClassGaussians:
        """Those of a `state`."""
        gaussians = cls()
        gaussians.whitening, gaussians.centres = whitening, centres
        return gaussians

    def update(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Adds features [B, D] with labels int64 [B] below `classes`."""
        f = features.double()
        if self._shift is None:
            # Sums are taken about a sample mean, so that their differences keep their digits.
            self._shift = f.mean(0)
            self._sums = f.new_zeros(classes, f.shape[1])
            self._counts = f.new_zeros(classes)
            self._products = f.new_zeros(f.shape[1], f.shape[1])
        f = f - self._shift
        self._sums.index_add_(0, labels, f)
        self._counts.index_add_(0, labels, torch.ones_like(f[:, 0]))
        self._products += f.T @ f

    def finish(self) -> None:
        """Ends the pass: centres and covariance."""
        assert self._shift is not None
        present = self._counts > 0
        counts, sums = self._counts[present], self._sums[present]
        means = sums / counts[:, None]
        covariance = (self._products - means.T @ sums) / counts.sum()
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
        self.whitening = vectors[:, kept] / values[kept].sqrt()
        self.centres = (means + self._shift) @ self.whitening
        self._shift = None
        del self._sums, self._counts, self._products

    def half_distance(self, features: Tensor) -> Tensor:
        """Half the squared Mahalanobis distance to the nearest centre, [B] float64, differentiable."""
        assert self.whitening is not None
        assert self.centres is not None
        white = features.double() @ self.whitening
        with torch.no_grad():
            # argmin of |w - c|^2 without the |w|^2 that all share
            nearest = (self.centres.square().sum(1) / 2 - white @ self.centres.T).argmin(1)
        return (white - self.centres[nearest]).square().sum(1) / 2

    def state(self) -> dict[str, Tensor]:
        """What was fitted; empty before."""
        if self.whitening is None or self.centres is None:
            return {}
        return {"whitening": self.whitening, "centres": self.centres}
