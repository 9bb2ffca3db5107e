"""The cotangents that wait at the nodes of a recorded graph, freed as soon as they are taken."""

from __future__ import annotations

from collections.abc import Container, Sequence

from torch import Tensor

from gradfast.record import Graph, Node
from gradfast.rules import rule_for
from gradfast.rules.base import Grads, Pending


class Carrier:
    """Starts with a cotangent [R, *shape] of one output of one node; rows come first everywhere.

    ``in_two`` are the nodes, by order number, whose step adds two cotangents up as it reads them: they wait unsummed.
    """

    def __init__(
        self, node: Node, output: int, cotangent: Tensor, in_two: Container[int] = frozenset()
    ) -> None:
        self._waiting: dict[int, list[Tensor | None]] = {}
        self._second: dict[int, Tensor] = {}  # by node, of its first output
        self._pending: dict[int, Pending] = {}
        self._in_two = in_two
        self.add(node, output, cotangent)

    def take(self, node: Node) -> list[Tensor | None] | None:
        """The cotangents of the node's outputs, which are then no longer held; None where none arrived."""
        found, second = self._waiting.pop(node.order, None), self._second.pop(node.order, None)
        if found is not None and second is not None:
            found[0] = second if found[0] is None else found[0] + second
        return found

    def take_second(self, node: Node) -> Tensor | None:
        """What is to be added to the cotangent of the first output, which `take` then leaves out."""
        return self._second.pop(node.order, None)

    def take_pending(self, node: Node) -> Pending | None:
        return self._pending.pop(node.order, None)

    def carry(self, node: Node, cotangents: Grads, needs: Sequence[bool]) -> None:
        """Hand the cotangents of a node's operands on to those that need them."""
        for need, edge, g in zip(needs, node.edges, cotangents, strict=True):
            if need and edge is not None and g is not None:
                self.add(*edge, g)

    def add(self, node: Node, output: int, g: Tensor, pending: Pending | None = None) -> None:
        """One more cotangent [R, *shape] for an output of a node; with ``pending`` the only one, to which that is yet to be done."""
        g = g.real if g.is_complex() and not node.dtypes[output].is_complex else g
        g = reduce_to(g, node.shapes[output]).to(node.dtypes[output])
        waiting = self._waiting.setdefault(node.order, [None] * len(node.shapes))
        before = waiting[output]
        if pending is not None:
            self._pending[node.order] = pending
        if before is None:
            waiting[output] = g
        elif output == 0 and node.order in self._in_two and node.order not in self._second:
            self._second[node.order] = g
        else:
            waiting[output] = before + g


def reduce_to(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a cotangent [R, *full] over the dimensions that broadcasting added to ``shape``."""
    if g.shape[1:] == shape:
        return g
    return g.sum_to_size(g.shape[0], *(1,) * (g.dim() - 1 - len(shape)), *shape).reshape(g.shape[0], *shape)


def pull(graph: Graph, node: Node, output: int, grads: Tensor) -> dict[str, Tensor]:
    """Gradients of a tensor that was made from parameters alone, taken back to those parameters: by name, [R, *parameter].

    A parameter that is missing has none: a formula of autograd's on the way says that it is zero.
    """
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
