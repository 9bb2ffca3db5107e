"""Sets of noise, made as they are read: the plainest images that no classifier has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradfast.errors import InputError, describe

from .images import Preprocess
from .imageset import ImageSet

__all__ = ["NOISES", "NoiseImages"]

NOISES = ("uniform", "gaussian")
_SIDE = 32


class NoiseImages(ImageSet):
    """Independent pixels, as S. Liang, Y. Li and R. Srikant (ODIN, ICLR 2018, section 4.2) test with.

    Args:
        kind: "uniform", on [0, 1]; or "gaussian", of mean 0.5 and variance 1, clipped to [0, 1].
        count: how many.
        preprocess: as for all image sets; its size and channels are those of the noise (default: 32 pixels).
        limit: as for all image sets.
        seed: image i depends on (seed, i) alone.

    Raises:
        InputError: an unknown kind, or numbers out of range.
    """

    def __init__(
        self, kind: str, count: int, preprocess: Preprocess, limit: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(preprocess, limit)
        if kind not in NOISES:
            raise InputError(f"noise: got {describe(kind)}; wanted {' or '.join(NOISES)}")
        for name, value, least in (("count", count, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise InputError(f"{name}: got {describe(value)}; wanted an integer, at least {least}")
        size = preprocess.size or _SIDE
        self._shape = ((size, size) if isinstance(size, int) else size) + (
            (3,) if preprocess.channels == 3 else ()
        )
        self._kind, self._n, self._seed = kind, count, seed

    def _count(self) -> int:
        return self._n

    def _read(self, i: int) -> tuple[npt.NDArray[Any], int]:
        generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, i], dtype=np.uint64)))
        if self._kind == "uniform":
            return generator.integers(0, 256, self._shape, dtype=np.uint8), -1
        drawn = 0.5 + generator.standard_normal(self._shape)
        return np.rint(drawn.clip(0, 1) * 255).astype(np.uint8), -1

    def where(self, i: int) -> str:
        """The kind and the number."""
        return f"{self._kind} noise, image {i}"

    def _identity(self) -> dict[str, Any]:
        return {"noise": self._kind, "shape": list(self._shape), "seed": self._seed}
