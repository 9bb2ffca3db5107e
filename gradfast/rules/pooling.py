"""Pooling: the rows are folded into the batch of autograd's own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Grads, Rule, register
from gradfast.rules.reshape import signed, single

if TYPE_CHECKING:
    from gradfast.record.graph import Node


def repeated(t: Tensor, rows: int) -> Tensor:
    """[N, ...] for each row, rows folded in: [rows * N, ...], in t's memory format."""
    channels_last = t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last)
    out = t.expand(rows, *t.shape).flatten(0, 1)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def sizes_only(x: Tensor, rows: int) -> Tensor:
    """Stands for x repeated, where only its sizes matter: memory that nothing touches."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        (rows * x.shape[0], *x.shape[1:]),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


@register("MaxPool2DWithIndicesBackward0")
class MaxPool2d(Rule):
    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g, x = single(grads), node.tensor("self")
        if x.dim() != 4:
            return ()
        rows = g.shape[0]
        like = sizes_only(x, rows)
        out = torch.ops.aten.max_pool2d_with_indices_backward(
            g.flatten(0, 1), like, node.saved("kernel_size"), node.saved("stride"), node.saved("padding"),
            node.saved("dilation"), node.saved("ceil_mode"), repeated(node.tensor("result1"), rows),
        )  # fmt: skip
        return [out.unflatten(0, (rows, -1))]


@register("AvgPool2DBackward0")
class AvgPool2d(Rule):
    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g, x = single(grads), node.tensor("self")
        if x.dim() != 4:
            return ()
        like = sizes_only(x, g.shape[0])
        divisor = node.saved("divisor_override")
        out = torch.ops.aten.avg_pool2d_backward(
            g.flatten(0, 1), like, node.saved("kernel_size"), node.saved("stride"), node.saved("padding"),
            node.saved("ceil_mode"), node.saved("count_include_pad"), None if divisor is None else signed(divisor),
        )  # fmt: skip
        return [out.unflatten(0, (g.shape[0], -1))]
