"""Random numbers that belong to a sample: a function of the seed and the sample's index, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Draws"]


@dataclass(frozen=True)
class Draws:
    """One generator per sample, Philox keyed by (seed, index): the same in any batch, order and process.

    Attributes:
        seed: 0 to 2**64 - 1.
        index: int64 [n], at least 0.
    """

    seed: int
    index: Tensor

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32 [n, *shape]."""
        return self._each(lambda generator: generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32 [n, *shape]."""
        return self._each(lambda generator: generator.random(shape, dtype=np.float32))

    def _each(self, draw: Callable[[np.random.Generator], npt.NDArray[Any]]) -> Tensor:
        keys = (np.array([self.seed, i], dtype=np.uint64) for i in self.index.tolist())
        drawn = [draw(np.random.Generator(np.random.Philox(key=key))) for key in keys]
        return torch.from_numpy(np.stack(drawn))
