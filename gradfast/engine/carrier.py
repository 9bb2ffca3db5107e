"""The cotangents that wait at the nodes of a recorded graph, freed as soon as they are taken."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradfast.record import Graph, Node
from gradfast.rules import rule_for
from gradfast.rules.base import Grads


class Carrier:
    """Starts with a cotangent [R, *shape] of one output of one node; rows come first everywhere."""

    def __init__(self, node: Node, output: int, cotangent: Tensor) -> None:
        self._waiting: dict[int, list[Tensor | None]] = {}
        self.add(node, output, cotangent)

    def take(self, node: Node) -> list[Tensor | None] | None:
        """The cotangents of the node's outputs, which are then no longer held; None where none arrived."""
        return self._waiting.pop(node.order, None)

    def carry(self, node: Node, cotangents: Grads, needs: Sequence[bool]) -> None:
        """Hand the cotangents of a node's operands on to those that need them."""
        for need, edge, g in zip(needs, node.edges, cotangents, strict=False):
            if need and edge is not None and g is not None:
                self.add(*edge, g)

    def add(self, node: Node, output: int, g: Tensor) -> None:
        """One more cotangent [R, *shape] for an output of a node."""
        g = reduce_to(g, node.shapes[output]).to(node.dtypes[output])
        waiting = self._waiting.setdefault(node.order, [None] * len(node.shapes))
        before = waiting[output]
        waiting[output] = g if before is None else before + g


def reduce_to(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a cotangent [R, *full] over the dimensions that broadcasting added to ``shape``."""
    if g.shape[1:] == shape:
        return g
    return g.sum_to_size(g.shape[0], *(1,) * (g.dim() - 1 - len(shape)), *shape).reshape(g.shape[0], *shape)


def pull(graph: Graph, node: Node, output: int, grads: Tensor) -> dict[str, Tensor]:
    """Gradients of a tensor that was made from parameters alone, taken back to those parameters: by name, [R, *parameter]."""
    carrier = Carrier(node, output, grads)
    found: dict[str, Tensor] = {}
    for behind in graph.nodes[node.order :]:
        waiting = carrier.take(behind)
        if waiting is None:
            continue
        if behind.parameter is not None and waiting[0] is not None:
            found[behind.parameter] = waiting[0]
        needs = [e is not None and bool(e[0].wanted) for e in behind.edges]
        if any(needs):
            carrier.carry(behind, rule_for(behind.name).carry(behind, waiting, needs), needs)
    return found
