"""Makes the plan of a recorded graph: decides every operand, and finds which positions belong to which sample."""

from __future__ import annotations

import torch
from torch import Tensor

from gradfast.engine import fusion
from gradfast.engine.carrier import Carrier
from gradfast.engine.plan import Action, Plan
from gradfast.errors import ModelError
from gradfast.record import Graph, Layout, Node
from gradfast.record.layout import find, sample_codes
from gradfast.rules import rule_for


def make_plan(graph: Graph, logits: Tensor, batch: int, stale: Plan | None = None) -> Plan:
    """Decide every operand, and find the sample's digit wherever a parameter is used.

    The digits are read off a probe: a few random cotangents, each with only some of the samples in it (layout.sample_codes),
    carried through the graph once. A batch of one needs no probe. Of layouts that a ``stale`` plan has left open, those that explain
    this batch too are left.
    """
    plan = Plan(batch)
    carrier: Carrier | None = None
    codes = sample_codes(batch, logits.device)
    if batch > 1:
        carrier = Carrier(graph.root, graph.root_output, _probe(logits, codes))
    reached = {graph.root.order}  # by a cotangent; what parameters are made of is not
    for node in graph.nodes:
        if node.order not in reached or not node.wanted or node.parameter is not None:
            continue
        if rule_for(node.name).mixes_samples(node, batch):
            raise ModelError(
                f"model: {node.name.removesuffix('Backward0')} with the statistics of the batch mixes its samples, so "
                "no per-sample gradient exists; wanted model.eval()"
            )
        grads = carrier.take(node) if carrier else None
        layout: Layout | None = None
        if carrier is None:
            layout = Layout(0, max(1, node.shape[0])) if node.shape else None
        elif grads is None:
            continue
        elif grads[0] is not None and _may_use_a_parameter(node):
            layouts = find(grads[0], batch, codes)
            if stale is not None:
                before = stale.open.get(node.order, layouts)
                layouts = [found for found in layouts if found in before] or layouts
            layout = layouts[0] if layouts else None
            if len(layouts) > 1:
                plan.open[node.order] = layouts
        if layout is not None:
            plan.layouts[node.order] = layout
        actions = tuple(_decide(node, i, layout, batch) for i in range(len(node.edges)))
        plan.actions[node.order] = actions
        for action, edge in zip(actions, node.edges, strict=True):
            if edge is not None and action is Action.CARRY:
                reached.add(edge[0].order)
            if edge is None or action not in (Action.USE, Action.DENSE):
                continue
            for name in edge[0].wanted:
                plan.uses[name] = plan.uses.get(name, 0) + 1
            if action is Action.DENSE and batch > 1:
                plan.unserved |= edge[0].wanted
        if carrier is not None and grads is not None:
            needs = [a is Action.CARRY for a in actions]
            if any(needs):
                carrier.carry(node, rule_for(node.name).carry(node, grads, needs), needs)
    consumers = fusion.consumers(graph, plan.actions)
    plan.sole = {order for order, count in consumers.items() if count == 1}
    plan.fusions = fusion.find(graph, plan.actions, plan.sole, plan.open)
    return plan


def _may_use_a_parameter(node: Node) -> bool:
    """Whether some operand may be made of parameters alone: no input lies behind it, or it is broadcast (looked-up positions)."""
    return any(
        e is not None and e[0].wanted and (not e[0].from_input or e[0].shapes[e[1]] != node.shape)
        for e in node.edges
    )


def _probe(logits: Tensor, codes: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((codes.shape[0], *logits.shape), generator=generator).to(logits)
    return torch.where(codes[:, :, None], probe, probe.new_zeros(()))


def _decide(node: Node, edge: int, layout: Layout | None, batch: int) -> Action:
    target = node.edges[edge]
    if target is None or not target[0].wanted:
        return Action.SKIP
    rule = rule_for(node.name)
    positions = False  # looked up, the same ones for every sample
    if layout is not None and not target[0].from_samples:
        positions = rule.drops_samples(node, edge, layout, batch)
    if target[0].from_input and not positions:
        return Action.CARRY
    if layout is None:
        return Action.DENSE
    if batch > 1 and rule.keeps_samples(node, edge, layout):
        return Action.CARRY if target[0].parameter is None else Action.DENSE
    return Action.USE if rule.serves(node, edge, layout, batch) else Action.DENSE
