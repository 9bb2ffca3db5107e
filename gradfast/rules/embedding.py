"""Embedding tables, looked up position by position or summed over bags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Rule, register
from gradfast.rules.elementwise import operand_shape
from gradfast.rules.reshape import signed
from gradfast.rules.uses import EmbeddingUse, ReshapedUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout

SUM, MEAN, MAX = 0, 1, 2  # torch's numbers for the modes of a bag


@register("EmbeddingBackward0")
class Embedding(Rule):
    parameter_edges = frozenset({0})

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis < len(node.shape) - 1

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        indices = layout.split(node.tensor("indices").long(), batch, 0).flatten(1)
        g = layout.split(g, batch, 1).flatten(2, -2)
        padding = signed(int(node.saved("padding_idx")))
        if node.saved("scale_grad_by_freq"):
            count = (indices[:, :, None] == indices[:, None, :]).sum(2)
            g = g / count[None, :, :, None]
        return EmbeddingUse(indices, g, operand_shape(node, 0), padding)


@register("EmbeddingBagBackward0")
class EmbeddingBag(Rule):
    """Bags are laid out as [B, T] positions, the shorter ones filled up with cotangents of zero."""

    parameter_edges = frozenset({0})

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis == 0 and not node.saved("scale_grad_by_freq")

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        if int(node.saved("mode")) == MAX:
            return self._use_of_maxima(node, g, layout, batch)
        bags = node.shape[0]
        indices, offsets = node.tensor("indices").long(), node.tensor("offsets").long()[:bags]
        padding = signed(int(node.saved("padding_idx")))
        ends = torch.cat([offsets[1:], offsets.new_tensor([indices.numel()])])
        bag = torch.repeat_interleave(torch.arange(bags, device=indices.device), ends - offsets)
        used = indices != padding
        weight = torch.ones_like(indices, dtype=g.dtype)
        if node.saved("per_sample_weights") is not None:
            weight = node.saved("per_sample_weights").to(g.dtype)
        if int(node.saved("mode")) == MEAN:
            size = torch.zeros(bags, dtype=g.dtype, device=g.device).index_add_(0, bag, used.to(g.dtype))
            weight = weight / size.clamp(min=1)[bag]

        longest = int((ends - offsets).max()) if bags else 0
        slot = torch.arange(indices.numel(), device=indices.device) - offsets[bag]
        table = indices.new_zeros((bags, longest))
        table[bag, slot] = indices
        weights = weight.new_zeros((bags, longest))
        weights[bag, slot] = weight * used
        spread = g.unsqueeze(2) * weights[None, :, :, None]  # [R, bags, longest, D]
        rows = layout.split(table, batch, 0).flatten(1)
        spread = layout.split(spread, batch, 1).flatten(2, -2)
        return EmbeddingUse(rows, spread, operand_shape(node, 0), padding_idx=-1)

    def _use_of_maxima(self, node: Node, g: Tensor, layout: Layout, batch: int) -> Use:
        """Each element of a bag's maximum looks up one element of the table, which is a table of V * D rows of one element."""
        table, width = operand_shape(node, 0)
        columns = torch.arange(width, device=g.device)
        elements = node.tensor("result3") * width + columns
        filled = node.tensor("result2").unsqueeze(1) > 0
        use = EmbeddingUse(
            layout.split(torch.where(filled, elements, 0), batch, 0).flatten(1),
            layout.split(g * filled, batch, 1).flatten(2).unsqueeze(-1),
            (table * width, 1),
            padding_idx=-1,
        )
        return ReshapedUse(use, (table * width, 1), (table, width))
