"""Fused steps: an activation, the residual sum before it and the BatchNorms before that, in one pass over the cotangents.

In ``relu(bn(conv(x)) + shortcut)`` the cotangent is gated by the activation, handed to the shortcut, scaled for the convolution,
and summed over the positions for BatchNorm's bias and weight. Plain rules read it from memory for each of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from gradfast import ops
from gradfast.engine.carrier import Carrier
from gradfast.engine.plan import Action, Fusion, Plan, Taker, used_edges
from gradfast.record import Graph, Node
from gradfast.rules import rule_for
from gradfast.rules.base import Pending
from gradfast.rules.elementwise import Gate
from gradfast.rules.normalization import BatchNorm
from gradfast.rules.uses import BiasUse

MOST_NORMS = 2  # of the kernel


def consumers(graph: Graph, actions: Mapping[int, tuple[Action, ...]]) -> Counter[int]:
    """How many cotangents each node gets, by its order number."""
    return Counter(
        edge[0].order
        for node in graph.nodes
        for action, edge in zip(actions.get(node.order, ()), node.edges, strict=False)
        if action is Action.CARRY and edge is not None
    )


def find(
    graph: Graph, actions: Mapping[int, tuple[Action, ...]], sole: Container[int], leave: Container[int] = ()
) -> dict[int, Fusion]:
    """The fused steps of a graph, by the order number of the node that they start at; ``sole`` as in `Plan`.

    BatchNorms in ``leave`` are taken by themselves.
    """

    def fusible(node: Node) -> bool:
        return (
            isinstance(rule_for(node.name), BatchNorm)
            and node.order in sole
            and node.order not in leave
            and not BatchNorm.uses_batch_statistics(node)
            and Action.DENSE not in actions.get(node.order, ())
            and Action.CARRY not in actions.get(node.order, ())[1:]
            and all(e is None or e[0].name != "RepeatBackward0" for e in node.edges[1:])  # InstanceNorm
        )

    found: dict[int, Fusion] = {}
    taken: set[int] = set()
    for node in graph.nodes:
        if node.order not in actions or node.order in taken:
            continue
        if fusible(node):
            found[node.order] = Fusion((node.order,))
        if not isinstance(rule_for(node.name), Gate) or node.edges[0] is None:
            continue
        behind, _ = node.edges[0]
        if fusible(behind):
            fusion = Fusion((behind.order,))
        elif _is_plain_sum(behind, actions) and behind.order in sole:
            operands = [(e[0], e[1]) for e in behind.edges if e is not None and e[0].wanted]
            norms = [n.order for n, _ in operands if fusible(n)][:MOST_NORMS]
            fusion = Fusion(tuple(norms), tuple((n.order, i) for n, i in operands if n.order not in norms))
        else:
            continue
        if fusion.norms:
            found[node.order] = fusion
            taken |= {behind.order, *fusion.norms}
    return found


def _is_plain_sum(node: Node, actions: Mapping[int, tuple[Action, ...]]) -> bool:
    """A residual sum, a + b of equal shapes, no parameter among them."""
    return (
        node.name == "AddBackward0"
        and node.saved("alpha") == 1
        and set(actions.get(node.order, ())) <= {Action.CARRY, Action.SKIP}
        and all(e is None or e[0].shapes[e[1]] == node.shape for e in node.edges)
    )


def run(
    fusion: Fusion,
    graph: Graph,
    plan: Plan,
    head: Node,
    g: Tensor,
    second: Tensor | None,
    carrier: Carrier,
    take: Taker,
    *,
    norms: bool,
) -> bool:
    """Do the fused step at ``head``, whose cotangent [R, N, O, *] is g, or g + second.

    ``norms`` as in `sweep`. False, and nothing done, where the step does not apply.
    """
    if g.device.type == "cpu" and g.dtype is torch.float16:
        return False
    affine = [graph.nodes[i] for i in fusion.norms]
    rule = rule_for(head.name)
    gate, multiply = rule.gate(head) if isinstance(rule, Gate) else (None, True)
    shared = [t for t in (*(n.tensor("input") for n in affine), gate) if t is not None]
    if any(t.dtype != g.dtype or not _is_channels_last(t, 1) for t in shared):
        return False

    rstds = [BatchNorm.running_rstd(n) for n in affine]
    weights = [n.saved("weight") for n in affine]
    factors = [r if w is None else r * w for r, w in zip(rstds, weights, strict=True)]
    postponed = norms and _all_may_wait(affine, plan, g)
    # The convolution can read the mask too, unless another operand wants what is behind the gate anyway.
    masked = postponed and not fusion.plain and not multiply and gate is not None and second is None
    plain, sums, scaled = ops.gate_backward(
        _positions(g, 2),
        None if gate is None else _positions(gate, 1),
        multiply,
        [_positions(n.tensor("input"), 1) for n in affine],
        [n.tensor("running_mean") for n in affine],
        rstds,
        [] if postponed else factors,
        bool(fusion.plain) or (postponed and not masked),
        None if second is None else _positions(second, 2),
    )
    for order, output in fusion.plain:
        carrier.add(graph.nodes[order], output, _as_shape(plain, g))
    for k, norm in enumerate(affine):
        actions = plan.actions[norm.order]
        for operand, total in ((1, sums[1 + k]), (2, sums[0])):
            edge = norm.edges[operand]
            if edge is not None and actions[operand] is Action.USE:
                parts = plan.layouts[norm.order].split(total, plan.batch, 1)  # [R, B, F, O]
                take(*edge, BiasUse(parts.movedim(3, 2), (total.shape[2],)))
        edge = norm.edges[0]
        if edge is None or actions[0] is not Action.CARRY:
            continue
        if not postponed:
            carrier.add(*edge, _as_shape(scaled[k], g))
        elif masked:
            carrier.add(*edge, g, Pending(factors[k].float(), gate))
        else:
            carrier.add(*edge, _as_shape(plain, g), Pending(factors[k].float()))
    return True


def _all_may_wait(norms: list[Node], plan: Plan, g: Tensor) -> bool:
    """Whether the scale of each of these BatchNorms can be left to the convolution behind it, whose one consumer it is."""

    def may_wait(norm: Node) -> bool:
        if norm.edges[0] is None or plan.actions[norm.order][0] is not Action.CARRY:
            return False
        behind, _ = norm.edges[0]
        actions = plan.actions.get(behind.order, ())
        used = used_edges(actions)
        return (
            behind.order in plan.sole
            and actions[0] is Action.CARRY
            and Action.DENSE not in actions
            and Action.CARRY not in actions[1:]
            and all(_is_used_once(behind, i, plan) for i in used)
            and rule_for(behind.name).takes_pending(behind, g, used, plan.batch)
        )

    return all(may_wait(n) for n in norms)


def _is_used_once(node: Node, operand: int, plan: Plan) -> bool:
    """Whether the operand is a parameter that enters the model nowhere else, so that its norm need not be joined."""
    edge = node.edges[operand]
    return edge is not None and edge[0].parameter is not None and plan.uses[edge[0].parameter] == 1


def _is_channels_last(t: Tensor, channel: int) -> bool:
    return t.movedim(channel, -1).is_contiguous()


def _positions(t: Tensor, channel: int) -> Tensor:
    """[..., O, *] as [..., positions, O]; copied only where it lies otherwise in memory."""
    t = t.unsqueeze(-1) if t.dim() == channel + 1 else t
    return t.movedim(channel, -1).flatten(channel, -2).contiguous()


def _as_shape(t: Tensor, like: Tensor) -> Tensor:
    """[R, N, positions, O] as [R, N, O, *] of ``like``."""
    t = t.movedim(3, 2)
    return t.reshape(like.shape) if like.dim() == 3 else t.unflatten(3, like.shape[3:])
