"""What was learned of a model: the plans of its graphs, and how many samples go back together."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from torch import nn

from gradfast.engine.plan import Plan
from gradfast.record import Graph
from gradfast.record.signature import Signature, signature

# Of a model and a choice of its parameters; sentences of many lengths have as many.
MOST_PLANS = 256


@dataclass
class Book:
    """By whatever decides them, ``sizes`` are samples per chunk, and ``recompute`` is whether blocks are made again.

    ``warned``: the user was told of the fallback, ``told_of_hooks``: of backward hooks. ``channels_last``: images are handed to the model so.
    """

    sizes: dict[Hashable, int] = field(default_factory=dict)
    recompute: dict[Hashable, bool] = field(default_factory=dict)
    warned: bool = False
    told_of_hooks: bool = False
    channels_last: bool = True
    _plans: dict[frozenset[str], list[tuple[Signature, Plan]]] = field(default_factory=dict)

    def find(self, graph: Graph, batch: int) -> Plan | None:
        """The plan of a graph with the same signature; or of another number of samples.

        A plan for another number of samples serves where every size is the same or grew with the samples: where the samples lie
        does not depend on how many they are. A batch of one is planned without looking for them, and serves only itself.
        """
        sought = signature(graph, batch)
        for known, plan in reversed(self._plans.get(graph.root.wanted, [])):
            if plan.batch == batch and known == sought:
                return plan
            if min(plan.batch, batch) > 1 and _scaled(known, plan.batch, sought, batch):
                scaled = _scale(plan, graph, batch)
                if scaled is not None:
                    self.add(graph, scaled)
                    return scaled
        return None

    def add(self, graph: Graph, plan: Plan) -> None:
        """Keeps a plan in place of an earlier one of the same graph, and lets go of the oldest of very many."""
        plans = self._plans.setdefault(graph.root.wanted, [])
        own = signature(graph, plan.batch)
        plans[:] = [(s, p) for s, p in plans if p.batch != plan.batch or s != own][1 - MOST_PLANS :]
        plans.append((own, plan))


def _scale(plan: Plan, graph: Graph, batch: int) -> Plan | None:
    """The plan for another number of samples; of layouts that it leaves open, those that still fit. None where none does."""
    layouts, still_open = dict(plan.layouts), {}
    for order, candidates in plan.open.items():
        shape = graph.nodes[order].shape
        fitting = [c for c in candidates if shape[c.axis] % (batch * c.inner) == 0]
        if not fitting:
            return None
        layouts[order] = fitting[0]
        if len(fitting) > 1:
            still_open[order] = fitting
    return replace(plan, batch=batch, layouts=layouts, open=still_open)


def _scaled(a: Signature, batch_a: int, b: Signature, batch_b: int) -> bool:
    if len(a) != len(b):
        return False
    for (name_a, shapes_a, edges_a), (name_b, shapes_b, edges_b) in zip(a, b, strict=True):
        if name_a != name_b or edges_a != edges_b or len(shapes_a) != len(shapes_b):
            return False
        for shape_a, shape_b in zip(shapes_a, shapes_b, strict=True):
            if len(shape_a) != len(shape_b):
                return False
            if any(m != n and m * batch_b != n * batch_a for m, n in zip(shape_a, shape_b, strict=True)):
                return False
    return True


_BOOKS: WeakKeyDictionary[nn.Module, Book] = WeakKeyDictionary()


def book_of(model: nn.Module) -> Book:
    """Kept as long as the model lives."""
    return _BOOKS.setdefault(model, Book())
