"""Which positions of a cotangent belong to which sample.

Models fold the batch into other dimensions (windows, frames, heads, sequence-first tokens). In every regular case the
sample's number is one digit of one axis: ``axis`` has size outer * B * inner and sample = (index // inner) % B. The digit is
not guessed from the code that ran; it is read off the zeros of cotangents in which only some samples are held against a
target, and a graph in which no digit explains those zeros is refused. Where few positions are alive (the last token's, the rows of
one expert) several digits explain them; they are all kept, and the next batch has to agree (`agree`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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

    def samples(self, t: Tensor, batch: int) -> Tensor:
        """Of every entry of t [*shape] the number of its sample; broadcast to t's shape."""
        numbers = torch.arange(t.shape[self.axis], device=t.device) // self.inner % batch
        return numbers.view(-1, *(1,) * (t.dim() - self.axis - 1))


def sample_codes(batch: int, device: torch.device) -> Tensor:
    """Binary codes, one per sample, none of which contains another: bool [bits, B]. Row r of a probe holds the samples with bit r."""
    bits = next(n for n in itertools.count(1) if math.comb(n, n // 2) >= batch)
    chosen = itertools.islice(itertools.combinations(range(bits), bits // 2), batch)
    codes = torch.zeros((bits, batch), dtype=torch.bool)
    for sample, ones in enumerate(chosen):
        codes[list(ones), sample] = True
    return codes.to(device)


def find(probe: Tensor, batch: int, codes: Tensor) -> list[Layout]:
    """The layouts that explain the zeros of ``probe`` [bits, *shape].

    A candidate holds where every non-zero entry of row r sits at a sample whose bit r is set; since no sample's code contains
    another's, no entry can be taken for another sample's. Where several hold they are of one mind about the entries that are not
    zero, and about nothing else. NaN and infinity count as zero.
    """
    shape = probe.shape[1:]
    if 0 in shape:
        return [Layout(shape.index(0), 1)]
    alive = (probe != 0) & probe.isfinite()
    found: list[Layout] = []
    for axis, size in enumerate(shape):
        strides = _strides(size, batch)
        if not strides:
            continue
        others = [d for d in range(1, alive.dim()) if d != axis + 1]
        along = alive.any(others) if others else alive  # [bits, size]
        for inner in strides:
            seen = along.view(len(along), -1, batch, inner).any(3).any(1)  # [bits, B]
            if not bool((seen & ~codes).any()):
                found.append(Layout(axis, inner))
    return found


def agree(layouts: Sequence[Layout], g: Tensor, batch: int) -> bool:
    """Whether all layouts take each non-zero entry of a cotangent [R, *shape] for the same sample's."""
    alive = (g != 0).any(0)
    first, *others = (layout.samples(alive, batch) for layout in layouts)
    return not any(bool((alive & (first != other)).any()) for other in others)


def _strides(size: int, batch: int) -> list[int]:
    """Digit strides that fit an axis of this size: batch-major first, then batch-minor, then in between."""
    if size % batch:
        return []
    rest = size // batch
    divisors = [d for d in range(1, rest + 1) if rest % d == 0]
    return [rest, *[d for d in divisors if d != rest]]
