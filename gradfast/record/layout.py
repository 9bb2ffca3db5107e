"""Which positions of a cotangent belong to which sample.

Models fold the batch into other dimensions (windows, frames, heads, sequence-first tokens). In every regular case the
sample's number is one digit of one axis: ``axis`` has size outer * B * inner and sample = (index // inner) % B. The digit is
not guessed from the code that ran; it is read off the zeros of cotangents in which only some samples are held against a
target, and a graph in which no digit explains those zeros is refused.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The sample's digit in a tensor: axis (of the tensor without the leading row axis) and the stride of the digit in it."""

    axis: int
    inner: int

    def split(self, t: Tensor, batch: int, lead: int) -> Tensor:
        """Move the sample's digit to dimension ``lead``: [*lead dims, ..., outer*B*inner, ...] -> [*lead, B, ..., outer, inner, ...].

        ``outer`` and ``inner`` are kept as one axis, outer * inner positions, where the axis was. A view where strides allow it.
        """
        axis = lead + self.axis
        size = t.shape[axis]
        outer = size // (batch * self.inner)
        t = t.unflatten(axis, (outer, batch, self.inner))
        t = t.movedim(axis + 1, lead)
        return t.flatten(axis + 1, axis + 2)


def sample_codes(batch: int, device: torch.device) -> Tensor:
    """Binary codes, one per sample, none of which contains another: bool [bits, B]. Row r of a probe holds the samples with bit r."""
    bits = next(n for n in itertools.count(1) if math.comb(n, n // 2) >= batch)
    chosen = itertools.islice(itertools.combinations(range(bits), bits // 2), batch)
    codes = torch.zeros((bits, batch), dtype=torch.bool)
    for sample, ones in enumerate(chosen):
        codes[list(ones), sample] = True
    return codes.to(device)


def find(probe: Tensor, batch: int, codes: Tensor) -> tuple[Layout | None, bool]:
    """The layout that explains the zeros of ``probe`` [bits, *shape], and whether the zeros decide it.

    A candidate holds where every non-zero entry of row r sits at a sample whose bit r is set; since no sample's code contains
    another's, no entry can be taken for another sample's. Returns (None, True) where no candidate holds. A probe that vanishes
    everywhere decides nothing: the first candidate that fits the shape, and False. NaN and infinity count as zero.
    """
    alive = (probe != 0) & probe.isfinite()
    decided = bool(alive.any())
    for layout in (Layout(a, i) for a, n in enumerate(probe.shape[1:]) for i in _strides(n, batch)):
        seen = layout.split(alive, batch, 1).flatten(2).any(2)  # [bits, B]
        if not bool((seen & ~codes).any()):
            return layout, decided
    return None, decided


def _strides(size: int, batch: int) -> list[int]:
    """Digit strides that fit an axis of this size: batch-major first, then batch-minor, then in between."""
    if size == 0 or size % batch:
        return []
    rest = size // batch
    divisors = [d for d in range(1, rest + 1) if rest % d == 0]
    return [rest, *[d for d in divisors if d != rest]]
