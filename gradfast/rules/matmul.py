"""Matrix products: linear layers, attention's products, and parameters on either side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.record.layout import Layout
from gradfast.rules.base import Grads, Rule, register
from gradfast.rules.elementwise import (
    broadcast_keeps_samples,
    broadcast_use,
    operand_shape,
    scalar,
    scaled,
)
from gradfast.rules.reshape import single
from gradfast.rules.uses import ExpertsUse, LinearUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node


@register("MmBackward0")
class Mm(Rule):
    """Y [N, O] = L [N, D] R [D, O]; the samples lie along the side that is not the parameter."""

    parameter_edges = frozenset({0, 1})
    left, right = "self", "mat2"
    first = 0  # the edge of the left operand

    def alpha(self, node: Node) -> complex:
        return 1.0

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = scaled(single(grads), self.alpha(node))
        out: list[Tensor | None] = [None] * self.first
        by_left, by_right = needs[self.first : self.first + 2]
        out.append(g @ node.saved(self.right).t() if by_left and _is_dense(node, self.right) else None)
        out.append(node.saved(self.left).t() @ g if by_right and _is_dense(node, self.left) else None)
        return out

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        side, other = (0, self.left) if edge == self.first + 1 else (1, self.right)
        return _is_dense(node, other) and (batch == 1 or layout.axis == side)

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        g = scaled(g, self.alpha(node))
        if (
            edge == self.first + 1
        ):  # Y' = R' L': the right operand is a weight [D, O], the rows of L are its inputs
            x, transposed = node.saved(self.left), True
        else:
            x, g, transposed = node.saved(self.right).t(), g.transpose(1, 2), False
        rows = Layout(0, layout.inner if batch > 1 else x.shape[0])
        return LinearUse(rows.split(x.conj(), batch, 0), rows.split(g, batch, 1), transposed)


def _is_dense(node: Node, operand: str) -> bool:
    """An adjacency matrix may be sparse: autograd has the products that are needed then."""
    return node.tensor(operand).layout is torch.strided


@register("AddmmBackward0")
class Addmm(Mm):
    """Y = beta * bias + alpha * L R."""

    parameter_edges = frozenset({0, 1, 2})
    left, right = "mat1", "mat2"
    first = 1

    def alpha(self, node: Node) -> complex:
        return scalar(node, "alpha")

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        out = list(super().closed_form(node, grads, needs))
        out[0] = scaled(single(grads), scalar(node, "beta")) if needs[0] else None
        return out

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return edge == 0 or super().separable(node, edge, layout, batch)

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        if edge:
            return super().use(node, g, edge, layout, batch)
        return broadcast_use(g, scalar(node, "beta"), node.shape, operand_shape(node, 0), layout, batch)

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        return edge == 0 and broadcast_keeps_samples(node.shape, operand_shape(node, 0), layout)


@register("BmmBackward0")
class Bmm(Rule):
    """Y [n, N, O] = L [n, N, D] R [n, D, O]; a parameter holds n matrices (one, for einsum; experts), the samples lie within each."""

    parameter_edges = frozenset({0, 1})

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = single(grads)
        return [
            g @ node.saved("mat2").transpose(1, 2) if needs[0] else None,
            node.saved("self").transpose(1, 2) @ g if needs[1] else None,
        ]

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return batch == 1 or layout.axis == (1 if edge == 1 else 2)

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        if edge == 1:
            x, transposed = node.saved("self"), True
        else:
            x, g, transposed = node.saved("mat2").transpose(1, 2), g.transpose(2, 3), False
        rows = Layout(0, layout.inner if batch > 1 else x.shape[1])  # of each matrix
        return ExpertsUse(rows.split(x.conj(), batch, 1), rows.split(g, batch, 2), transposed)
