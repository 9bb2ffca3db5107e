"""Convolutions of one to three dimensions, transposed or not: the rows are folded into the batch for backward-data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast import ops
from gradfast.rules.base import Grads, Pending, Rule, register
from gradfast.rules.elementwise import operand_shape
from gradfast.rules.reshape import single
from gradfast.rules.uses import BiasUse, ConvUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout


@register("ConvolutionBackward0")
class Convolution(Rule):
    parameter_edges = frozenset({1, 2})

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        if not needs[0]:
            return ()
        g = single(grads)
        x, weight = node.saved("input"), node.saved("weight")
        if self._is_plain(node) and ops.has_conv_input_grad(g, weight, _per_dimension(node, "stride")):
            stride, padding = (_per_dimension(node, name) for name in ("stride", "padding"))
            return [ops.conv_input_grad(g, weight, stride, padding, x.shape[2:])]
        folded = g.flatten(0, 1)
        # Only the sizes of the input matter to backward-data: memory that nothing touches stands for it.
        # A weight that lies by pixel makes torch copy whatever does not; stride 1: some channels of a concatenation, perhaps.
        by_pixel = folded.dim() == 4 and (folded.stride(1) == 1 < folded.shape[1] or _is_by_pixel(weight))
        like = torch.empty(
            (folded.shape[0], *x.shape[1:]),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if by_pixel else torch.contiguous_format,
        )
        out = torch.ops.aten.convolution_backward(
            folded, like, weight, None, node.saved("stride"), node.saved("padding"), node.saved("dilation"),
            node.saved("transposed"), node.saved("output_padding"), node.saved("groups"), (True, False, False),
        )[0]  # fmt: skip
        return [out.unflatten(0, (g.shape[0], g.shape[1]))]

    def joint(
        self,
        node: Node,
        g: Tensor,
        needs_input: bool,
        used: Collection[int],
        layout: Layout | None,
        batch: int,
        pending: Pending | None = None,
    ) -> tuple[Grads, dict[int, Use]] | None:
        """Winograd's backward of a 3x3 convolution: both gradients from one transform of the cotangent."""
        if not needs_input or not self._is_plain_3x3(node):
            return None
        weight = node.tensor("weight")
        if not ops.has_conv3x3_backward(g, weight):
            return None
        norms = self._has_joint_norms(node, g, used, batch)
        carried, sqnorm = ops.conv3x3_backward(
            g,
            weight,
            node.tensor("input") if norms else None,
            mask=pending.mask if pending else None,
            scale=pending.scale if pending else None,
            need_input_grad=True,
            need_sqnorm=norms,
        )
        if not norms or layout is None:
            return [carried], {}
        use = self.use(node, g, 1, layout, batch)
        assert isinstance(use, ConvUse)
        return [carried], {1: replace(use, known_sqnorm=sqnorm)}

    def takes_pending(self, node: Node, g: Tensor, used: Collection[int], batch: int) -> bool:
        if not self._is_plain_3x3(node) or not ops.has_conv3x3_backward(g, node.tensor("weight")):
            return False
        return not used or (set(used) == {1} and self._has_joint_norms(node, g, used, batch))

    def _has_joint_norms(self, node: Node, g: Tensor, used: Collection[int], batch: int) -> bool:
        one_to_a_sample = node.shape[0] == batch
        return (
            1 in used and one_to_a_sample and ops.has_conv3x3_backward(g, node.tensor("weight"), sqnorm=True)
        )

    def _is_plain(self, node: Node) -> bool:
        """Two dimensions, without dilation and groups."""
        return (
            len(node.shape) == 4
            and not node.saved("transposed")
            and int(node.saved("groups")) == 1
            and _per_dimension(node, "dilation") == (1, 1)
        )

    def _is_plain_3x3(self, node: Node) -> bool:
        return (
            self._is_plain(node)
            and node.tensor("weight").shape[2:] == (3, 3)
            and all(_per_dimension(node, name) == (1, 1) for name in ("stride", "padding"))
        )

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


def _is_by_pixel(t: Tensor) -> bool:
    return t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()


def _per_dimension(node: Node, name: str) -> tuple[int, ...]:
    """One number for each spatial dimension; autograd keeps a single one where all are alike."""
    values = tuple(int(v) for v in node.saved(name))
    return values * (len(node.shape) - 2) if len(values) == 1 else values
