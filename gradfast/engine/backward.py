"""One sweep over a recorded graph: the cotangents of all rows go back together, and every parameter's use is handed out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradfast.engine import fusion
from gradfast.engine.carrier import Carrier, reduce_to
from gradfast.engine.host import Watch
from gradfast.engine.plan import Action, Plan, StalePlanError, Taker, used_edges
from gradfast.record import Graph, Node
from gradfast.record.layout import agree
from gradfast.rules import rule_for
from gradfast.rules.base import Grads
from gradfast.rules.uses import DenseUse


def sweep(
    graph: Graph,
    plan: Plan,
    cotangents: Tensor,
    take: Taker,
    *,
    norms: bool,
    watch: Watch | None = None,
) -> None:
    """Carry the cotangents [R, B, K] of the logits back.

    ``watch`` hears of the cotangents that go by: on the heap, holes of other sizes would add up beside them.

    ``take`` gets the node and output of each tensor used, and its use. ``norms`` says that squared norms are all that is asked
    of the uses, so that they may come with the work of carrying.
    """
    carrier = Carrier(graph.root, graph.root_output, cotangents, in_two=plan.fusions)
    for node in graph.nodes:
        actions = plan.actions.get(node.order)
        if actions is None:
            continue
        fused = plan.fusions.get(node.order)
        second = carrier.take_second(node) if fused else None
        grads = carrier.take(node)
        if grads is None:
            continue
        g = grads[0]
        if watch is not None and g is not None:
            watch.passed(g.numel() * g.element_size())
        if fused and g is not None:
            if fusion.run(fused, graph, plan, node, g, second, carrier, take, norms=norms):
                continue
            grads[0] = g = g if second is None else g + second
        rule = rule_for(node.name)
        needs = [a is Action.CARRY for a in actions]
        used = used_edges(actions) if g is not None else []
        layout = plan.layouts.get(node.order)
        if g is not None and node.order in plan.open and not agree(plan.open[node.order], g, plan.batch):
            raise StalePlanError
        pending = carrier.take_pending(node)
        joint = None
        if g is not None and not any(needs[1:]):
            joint = rule.joint(node, g, needs[0], used if norms else (), layout, plan.batch, pending)
        assert joint or pending is None, node.name
        known = joint[1] if joint else {}
        for i in used:
            assert g is not None
            assert layout is not None
            take(*rule.operand(node, i, plan.batch), known.get(i) or rule.use(node, g, i, layout, plan.batch))
        if plan.batch == 1 and Action.DENSE in actions:
            _take_dense(node, grads, actions, take)
        if joint:
            carrier.carry(node, [*joint[0], *[None] * (len(needs) - len(joint[0]))], needs)
        elif any(needs):
            carrier.carry(node, rule.carry(node, grads, needs), needs)


def _take_dense(node: Node, grads: Grads, actions: Sequence[Action], take: Taker) -> None:
    """The gradients of a single sample at operands without a closed form."""
    needs = [action is Action.DENSE for action in actions]
    found = rule_for(node.name).carry(node, grads, needs)
    for need, edge, g in zip(needs, node.edges, found, strict=True):
        if need and edge is not None and g is not None:
            take(*edge, DenseUse(reduce_to(g, edge[0].shapes[edge[1]])))
