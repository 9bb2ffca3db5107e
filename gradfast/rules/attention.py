"""Attention: what the fused kernel recorded, taken back for all rows together, and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradfast.rules.base import Grads, Rule, UnaryRule, register
from gradfast.rules.reshape import signed, single

if TYPE_CHECKING:
    from gradfast.record.graph import Node


# Of the weights' cotangents that are held at once: they stay in the cache from one product to the next.
TILE_BYTES = 8 << 20


@register("ScaledDotProductFlashAttentionForCpuBackward0")
class FlashAttentionCpu(Rule):
    """The weights are made once for all rows, which torch's kernel would make for each, and never all at once.

    With queries before rows, [T, R, D], each product takes all rows of a head in one matrix. Of 16-bit operands the weights and
    their cotangents, which cancel, are made in float32, and rounded where they are multiplied on.
    """

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = grads[0]
        if g is None:
            return ()
        dtype = torch.promote_types(g.dtype, torch.float32)
        groups = [node.tensor("query").shape[1] // node.tensor(n).shape[1] for n in ("key", "value")]
        q, k, v, o = (
            (t if n == 1 else t.repeat_interleave(n, 1)).flatten(0, 1)  # [BH, T or S, D]
            for t, n in zip(
                map(node.tensor, ("query", "key", "value", "output")), (1, *groups, 1), strict=True
            )
        )
        lse = node.tensor("logsumexp").to(dtype).flatten(0, 1)[:, :, None]
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # a query that sees nothing has no weights
        scale = node.saved("scale")
        scale = q.shape[2] ** -0.5 if scale is None else float(scale)
        mask = node.saved("attn_mask")
        if mask is not None:
            mask = mask.expand(*g.shape[1:4], k.shape[1]).flatten(0, 1)
        hidden = None
        if node.saved("is_causal"):
            hidden = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=g.device).triu(1)

        rows, heads, per_row = g.shape[0], len(q), q.shape[1] * k.shape[1] * dtype.itemsize
        rows_at_a_time = max(1, min(rows, TILE_BYTES // per_row))
        heads_at_a_time = max(1, TILE_BYTES // (per_row * rows_at_a_time))
        out = [
            torch.empty(heads, t.shape[1], rows, t.shape[2], dtype=g.dtype, device=g.device)
            for t in (q, k, v)
        ]
        by_query = g.flatten(1, 2).movedim(0, 2)  # [BH, T, R, D]
        for first in range(0, heads, heads_at_a_time):
            at = slice(first, first + heads_at_a_time)
            weights = torch.bmm(q[at].to(dtype), k[at].to(dtype).mT).mul_(scale)
            if mask is not None:
                weights += mask[at]
            if hidden is not None:
                weights.masked_fill_(hidden, -torch.inf)
            weights.sub_(lse[at]).exp_()  # [bh, T, S]
            rounded = weights.mT.to(g.dtype)
            for start in range(0, rows, rows_at_a_time):
                some = slice(start, start + rows_at_a_time)
                go = by_query[at, :, some].contiguous()
                h, queries, r, width = go.shape
                exact = go.to(dtype)
                delta = (exact * o[at][:, :, None]).sum(3, keepdim=True)
                gw = torch.bmm(exact.view(h, queries * r, width), v[at].to(dtype).mT).view(h, queries, r, -1)
                gw = gw.sub_(delta).mul_(weights[:, :, None]).mul_(scale).to(g.dtype)
                gq = torch.bmm(gw.view(h, queries * r, -1), k[at])
                gk = torch.bmm(q[at].mT, gw.view(h, queries, -1))
                gv = torch.bmm(rounded, go.view(h, queries, -1))
                out[0][at, :, some] = gq.view(h, queries, r, -1)
                out[1][at, :, some] = gk.view(h, -1, r, k.shape[1]).transpose(1, 3)
                out[2][at, :, some] = gv.view(h, -1, r, width)
        shape = (g.shape[1], -1)
        found = [t.movedim(2, 0).unflatten(1, shape) for t in out]
        grouped = zip(found, (1, *groups), strict=True)  # several heads of queries look at one of keys
        return [t if n == 1 else t.unflatten(2, (-1, n)).sum(3) for t, n in grouped]


@register(
    "SoftmaxBackward0", "SafeSoftmaxBackward0"
)  # the safe one: zeros where all is masked; of attention, decomposed
class Softmax(UnaryRule):
    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g, y = single(grads), node.tensor("result")
        if y.dim() == 0:
            return ()
        dim = signed(node.saved("dim")) % y.dim() + 1
        weighted = g * y
        return [torch.addcmul(weighted, y, weighted.sum(dim, keepdim=True), value=-1)]
