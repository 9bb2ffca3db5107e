"""Attention: fused kernels with the rows folded into the batch, and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Grads, Rule, UnaryRule, register
from gradfast.rules.reshape import signed, single

if TYPE_CHECKING:
    from gradfast.record.graph import Node


@register("ScaledDotProductFlashAttentionForCpuBackward0")
class FlashAttentionCpu(Rule):
    """The kernel takes one cotangent per query: queries, keys and values are repeated for the rows."""

    def carry(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = grads[0]
        if g is None:
            return [None] * len(needs)
        rows = g.shape[0]

        def repeated(name: str) -> Tensor:
            t = node.tensor(name)
            return t.expand(rows, *t.shape).flatten(0, 1)

        mask = node.saved("attn_mask")
        if mask is not None and mask.dim() == 4 and mask.shape[0] > 1:
            mask = mask.expand(rows, *mask.shape).flatten(0, 1)
        out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g.flatten(0, 1), *(repeated(n) for n in ("query", "key", "value", "output", "logsumexp")),
            node.saved("dropout_p"), node.saved("is_causal"), attn_mask=mask, scale=node.saved("scale"),
        )  # fmt: skip
        return [t.unflatten(0, (rows, -1)) for t in out] + [None] * (len(needs) - 3)


@register("SoftmaxBackward0")
class Softmax(UnaryRule):
    def carry(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g, y = single(grads), node.tensor("result")
        dim = signed(node.saved("dim")) % y.dim() + 1
        weighted = g * y
        return [torch.addcmul(weighted, y, weighted.sum(dim, keepdim=True), value=-1)]
