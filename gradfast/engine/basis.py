"""Many more rows than the head's input is wide: the norms behind the head from a basis of what can reach them.

The cotangents of the head's input are V W, for logits h W' + b. With W = Q R (Q [K, F] orthonormal) they are (V Q) R: the rows
of Q' alone go back, each parameter's Gram matrix G across them is taken, and a row v has the squared norm (v Q) G (v Q)'.
Nothing is inverted, so an ill-conditioned W costs no accuracy. The head's own parameters take the rows as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradfast.engine.collect import Gram, Metric
from gradfast.engine.paths import View
from gradfast.engine.plan import Action, Plan, Taker, used_edges
from gradfast.record import Graph
from gradfast.rules import rule_for
from gradfast.rules.matmul import Mm
from gradfast.rules.uses import Use

# Below so many rows to a basis vector, Gram matrices across all pairs cost more than the rows that they save. Measured.
LEAST_RATIO = 2
NARROW = (torch.bfloat16, torch.float16)


@dataclass
class BasisNorm(Metric):
    """Squared norms of rows that are combinations ``mix`` [B, R, F] of the F rows that go back."""

    mix: Tensor
    across: Gram
    all_rows = True

    def of_use(self, use: Use, view: View) -> Tensor:
        return self.across.of_use(use, view)

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        return self.across.of_dense(grads, parameter)

    def finish(self, value: Tensor) -> Tensor:
        mix = self.mix.to(value.dtype)
        return ((mix @ value) * mix).sum(2)


def head_basis(graph: Graph, plan: Plan, rows: int) -> Tensor | None:
    """An orthonormal basis Q [K, F] of what the head, a linear layer that makes the logits, passes on; None where it does not pay.

    Nor where a parameter of the head is used elsewhere too (tied embeddings), or where anything is computed in less than float32:
    combinations of rows that were rounded so would be less exact than the rows themselves.
    """
    root = graph.root
    rule = rule_for(root.name)
    actions = plan.actions.get(root.order)
    if not isinstance(rule, Mm) or actions is None or actions[rule.first] is not Action.CARRY:
        return None
    weight = root.tensor(rule.right).t()  # [K, F]
    if rows < LEAST_RATIO * min(weight.shape):
        return None
    if any(dtype in NARROW for node in graph.nodes for dtype in node.dtypes):
        return None
    others = [(a, e) for i, (a, e) in enumerate(zip(actions, root.edges, strict=True)) if i != rule.first]
    for action, edge in others:
        if action not in (Action.USE, Action.SKIP) or (edge is not None and edge[0].from_input):
            return None
        if action is Action.USE and edge is not None and any(plan.uses[n] > 1 for n in edge[0].wanted):
            return None
    q: Tensor = torch.linalg.qr(weight.double()).Q
    return q


def head_parameters(graph: Graph, plan: Plan) -> frozenset[str]:
    """The wanted parameters that enter at the head."""
    root = graph.root
    edges = [root.edges[i] for i in used_edges(plan.actions[root.order])]
    return frozenset().union(*(e[0].wanted for e in edges if e is not None))


def take_head(graph: Graph, plan: Plan, v: Tensor, take: Taker) -> None:
    """Hand out the uses of the head's own parameters, for rows v [R, B, K]."""
    root = graph.root
    rule, layout = rule_for(root.name), plan.layouts.get(root.order)
    for i in used_edges(plan.actions[root.order]):
        assert layout is not None
        take(*rule.operand(root, i, plan.batch), rule.use(root, v, i, layout, plan.batch))
