"""Which positions of a cotangent belong to which sample.

Models fold the batch into other dimensions (windows, frames, heads, sequence-first tokens). In every regular case the
sample's number is one digit of one axis: ``axis`` has size outer * B * inner and sample = (index // inner) % B. The digit is
not guessed from the code that ran; it is read off the zeros of cotangents in which only some samples are held against a
target, and a graph in which no digit explains those zeros is refused. What the zeros of one batch leave open is asked again of
the next.
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
        inner = self.inner if size else 1
        t = t.unflatten(axis, (size // (batch * inner), batch, inner))
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
    another's, no entry can be taken for another sample's. Returns (None, True) where no candidate holds. Where several do, they agree
    on the entries that are not zero, and on nothing else: the first of them serves for this batch, and the second value is False. So it
    is for a probe that vanishes everywhere. NaN and infinity count as zero.
    """
    shape = probe.shape[1:]
    if 0 in shape:
        return Layout(shape.index(0), 1), False
    alive = (probe != 0) & probe.isfinite()
    fits: list[Layout] = []
    for axis, size in enumerate(shape):
        strides = _strides(size, batch)
        if not strides:
            continue
        others = [d for d in range(1, alive.dim()) if d != axis + 1]
        along = alive.any(others) if others else alive  # [bits, size]
        for inner in strides:
            seen = along.view(len(along), -1, batch, inner).any(3).any(1)  # [bits, B]
            if not bool((seen & ~codes).any()):
                fits.append(Layout(axis, inner))
    return (fits[0] if fits else None), len(fits) < 2


def _strides(size: int, batch: int) -> list[int]:
    """Digit strides that fit an axis of this size: batch-major first, then batch-minor, then in between."""
    if size % batch:
        return []
    rest = size // batch
    divisors = [d for d in range(1, rest + 1) if rest % d == 0]
    return [rest, *[d for d in divisors if d != rest]]
