"""Convolutions of one to three dimensions, transposed or not: the rows are folded into the batch for backward-data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Grads, Rule, register
from gradfast.rules.elementwise import operand_shape
from gradfast.rules.reshape import single
from gradfast.rules.uses import BiasUse, ConvUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout


@register("ConvolutionBackward0")
class Convolution(Rule):
    parameter_edges = frozenset({1, 2})

    def carry(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        if not needs[0]:
            return [None]
        g = single(grads)
        x, weight = node.saved("input"), node.saved("weight")
        folded = g.flatten(0, 1)
        # Only the sizes of the input matter to backward-data: memory that nothing touches stands for it.
        like = torch.empty((folded.shape[0], *x.shape[1:]), dtype=x.dtype, device=x.device)
        if folded.dim() == 4 and folded.is_contiguous(memory_format=torch.channels_last):
            like = like.to(memory_format=torch.channels_last)
        out = torch.ops.aten.convolution_backward(
            folded, like, weight, None, node.saved("stride"), node.saved("padding"), node.saved("dilation"),
            node.saved("transposed"), node.saved("output_padding"), node.saved("groups"), (True, False, False),
        )[0]  # fmt: skip
        return [out.unflatten(0, (g.shape[0], g.shape[1]))]

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis == 0

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        g = layout.split(g, batch, 1)  # [R, B, F, O, *]
        if edge == 2:
            return BiasUse(g.movedim(3, 2), (g.shape[3],))
        x = layout.split(node.saved("input"), batch, 0)
        return ConvUse(
            x=x.flatten(0, 1),
            g=g.flatten(1, 2),
            weight_shape=operand_shape(node, 1),
            stride=_per_dimension(node, "stride"),
            padding=_per_dimension(node, "padding"),
            dilation=_per_dimension(node, "dilation"),
            groups=int(node.saved("groups")),
            transposed=bool(node.saved("transposed")),
            frames=x.shape[1],
        )


def _per_dimension(node: Node, name: str) -> tuple[int, ...]:
    """One number for each spatial dimension; autograd keeps a single one where all are alike."""
    values = tuple(int(v) for v in node.saved(name))
    return values * (len(node.shape) - 2) if len(values) == 1 else values
