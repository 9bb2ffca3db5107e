"""Operations that only move elements: their cotangents are moved back, as views where strides allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from gradfast.rules.base import Grads, Rule, UnaryRule, register

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout


def signed(value: int) -> int:
    """Autograd shows saved dimensions as unsigned."""
    return value - (1 << 64) if value >= 1 << 63 else value


def single(grads: Grads) -> Tensor:
    (g,) = grads
    assert g is not None
    return g


@register(
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "UnsqueezeBackward0",
    "SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2", "AliasBackward0", "CloneBackward0",
)  # fmt: skip
class Reshape(UnaryRule):
    """The elements keep their order (copies included)."""

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        target, output = node.edges[0] or (None, 0)
        g = single(grads)
        return [None if target is None else g.reshape(g.shape[0], *target.shapes[output])]


@register("TBackward0", "TransposeBackward0", "PermuteBackward0")
class Permute(UnaryRule):
    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = single(grads)
        rank = len(node.shape)
        order = permutation(node)
        inverse = [order.index(d) for d in range(rank)]
        return [g.permute(0, *(d + 1 for d in inverse))]


def permutation(node: Node) -> list[int]:
    """The permutation that the recorded operation applied."""
    rank = len(node.shape)
    order = list(range(rank))
    if rank == 0:
        return order
    if node.name == "PermuteBackward0":
        return [signed(d) % rank for d in node.saved("dims")]
    if node.name == "TBackward0":
        return order[::-1]
    a, b = signed(node.saved("dim0")) % rank, signed(node.saved("dim1")) % rank
    order[a], order[b] = order[b], order[a]
    return order


@register("MeanBackward1", "SumBackward1", "ConstantPadNdBackward0", "RollBackward0", "FlipBackward0")
class Moved(UnaryRule):
    """Carried by autograd's formula."""


@register("CatBackward0")
class Cat(Rule):
    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = single(grads)
        dim = signed(node.saved("dim")) % len(node.shape)
        if any(e is None or len(e[0].shapes[e[1]]) != len(node.shape) for e in node.edges):
            return ()  # the size of some operand is not recorded
        sizes = [e[0].shapes[e[1]][dim] for e in node.edges if e is not None]
        return list(g.split(sizes, dim + 1))

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        return layout.axis != signed(node.saved("dim")) % len(node.shape)
