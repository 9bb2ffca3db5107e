"""One sweep over a recorded graph: the cotangents of all rows go back together, and every parameter's use is handed out."""

from __future__ import annotations

from torch import Tensor

from gradfast.engine import fusion
from gradfast.engine.carrier import Carrier, reduce_to
from gradfast.engine.plan import Action, Plan, Taker
from gradfast.record import Graph
from gradfast.rules import rule_for
from gradfast.rules.uses import DenseUse


def sweep(graph: Graph, plan: Plan, cotangents: Tensor, take: Taker) -> None:
    """Carry the cotangents [R, B, K] of the logits back; ``take`` gets the node and output of each tensor used, and its use."""
    carrier = Carrier(graph.root, graph.root_output, cotangents)
    for node in graph.nodes:
        actions = plan.actions.get(node.order)
        grads = carrier.take(node) if actions else None
        if actions is None or grads is None:
            continue
        fused = plan.fusions.get(node.order)
        if fused and grads[0] is not None and fusion.run(fused, graph, plan, node, grads[0], carrier, take):
            continue
        rule = rule_for(node.name)
        dense = [a is Action.DENSE and plan.batch == 1 for a in actions]
        whole = rule.carry(node, grads, [True] * len(actions)) if any(dense) else ()
        for i, (action, edge) in enumerate(zip(actions, node.edges, strict=True)):
            if edge is None:
                continue
            if action is Action.USE and grads[0] is not None:
                take(
                    *rule.operand(node, i), rule.use(node, grads[0], i, plan.layouts[node.order], plan.batch)
                )
            elif dense[i] and i < len(whole) and (g := whole[i]) is not None:
                take(*edge, DenseUse(reduce_to(g, edge[0].shapes[edge[1]])))
        carrier.carry(node, grads, [a is Action.CARRY for a in actions])
