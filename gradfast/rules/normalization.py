"""Normalization layers. Their weight meets the normalized input channel by channel, their bias the cotangent alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Grads, Rule, register
from gradfast.rules.elementwise import broadcast_use, operand_shape
from gradfast.rules.uses import AffineUse, BiasUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout


def per_channel(t: Tensor, rank: int, axis: int = 1) -> Tensor:
    """[O] -> [1, O, 1, ...] of the given rank."""
    return t.reshape([-1 if d == axis else 1 for d in range(rank)])


@register("NativeBatchNormBackward0", "CudnnBatchNormBackward0")
class BatchNorm(Rule):
    """Eval mode: a scale and a shift per channel.

    InstanceNorm is recorded as a batch normalization of [1, B*O, *] with repeated parameters: there the samples lie along the
    channels, and the use is that of the parameter before its repetition.
    """

    parameter_edges = frozenset({1, 2})

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        if self.uses_batch_statistics(node):
            return ()
        g = grads[0]
        if g is None or not needs[0]:
            return ()
        weight, rstd = node.saved("weight"), self.running_rstd(node)
        scale = rstd if weight is None else weight * rstd
        return [g * per_channel(scale.to(g.dtype), g.dim(), 2)]

    @staticmethod
    def uses_batch_statistics(node: Node) -> bool:
        return bool(node.saved("training"))

    @staticmethod
    def running_rstd(node: Node) -> Tensor:
        """Reciprocal standard deviations from the running statistics [O]; cuDNN's record calls eps otherwise."""
        eps = node.saved("epsilon" if node.name.startswith("Cudnn") else "eps")
        return torch.rsqrt(node.tensor("running_var") + eps)

    def mixes_samples(self, node: Node, batch: int) -> bool:
        return batch > 1 and node.shape[0] > 1 and self.uses_batch_statistics(node)

    @staticmethod
    def is_instance_norm(node: Node, edge: int, batch: int) -> bool:
        """Whether the weight or bias ``edge`` was repeated once for each sample."""
        target = node.edges[edge]
        return (
            node.shape[0] == 1
            and target is not None
            and target[0].name == "RepeatBackward0"
            and operand_shape(target[0], 0) == (node.shape[1] // batch,)
        )

    def operand(self, node: Node, edge: int, batch: int) -> tuple[Node, int]:
        target, output = super().operand(node, edge, batch)
        return (
            super().operand(target, 0, batch)
            if self.is_instance_norm(node, edge, batch)
            else (target, output)
        )

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis == 0 or (layout.axis == 1 and self.is_instance_norm(node, edge, batch))

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        if self.is_instance_norm(node, edge, batch):
            channels = node.shape[1] // batch

            def arrange(t: Tensor, lead: int) -> Tensor:  # [lead, 1, B*O, *] -> [lead, B, O, *]
                return torch.unflatten(t.squeeze(lead), lead, (batch, channels))
        else:
            channels = node.shape[1]

            def arrange(t: Tensor, lead: int) -> Tensor:  # [lead, B*F, O, *] -> [lead, B, O, F, *]
                t = layout.split(t, batch, lead)
                return t.movedim(lead + 2, lead + 1)

        if edge == 2:
            return BiasUse(arrange(g, 1), (channels,))
        return AffineUse(arrange(self.normalized(node).to(g.dtype), 0), arrange(g, 1), (channels,))

    def normalized(self, node: Node) -> Tensor:
        x = node.tensor("input")
        if self.uses_batch_statistics(node):
            mean, rstd = node.tensor("result1"), node.tensor("result2")
        else:
            mean, rstd = (
                node.tensor("running_mean"),
                self.running_rstd(node),
            )
        return (x - per_channel(mean, x.dim())) * per_channel(rstd, x.dim())


@register("NativeLayerNormBackward0")
class LayerNorm(Rule):
    parameter_edges = frozenset({1, 2})

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = grads[0]
        if g is None or not needs[0]:
            return ()
        xhat, rstd, weight = self.normalized(node), node.tensor("result2"), node.saved("weight")
        dims = tuple(range(-len(node.saved("normalized_shape")), 0))
        g = g if weight is None else g * weight.to(g.dtype)
        inner = (g * xhat).mean(dims, keepdim=True)
        return [torch.addcmul(g - g.mean(dims, keepdim=True), xhat, inner, value=-1) * rstd.to(g.dtype)]

    def normalized(self, node: Node) -> Tensor:
        x = node.tensor("input")
        return ((x - node.tensor("result1")) * node.tensor("result2")).to(x.dtype)

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis < len(node.shape) - len(node.saved("normalized_shape"))

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        shape = tuple(int(s) for s in node.saved("normalized_shape"))
        factor = 1.0 if edge == 2 else self.normalized(node)
        return broadcast_use(g, factor, node.shape, shape, layout, batch)


@register("NativeGroupNormBackward0")
class GroupNorm(Rule):
    parameter_edges = frozenset({1, 2})

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis == 0

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        channels = node.shape[1]
        broadcast = (channels, *(1,) * (len(node.shape) - 2))
        factor = 1.0 if edge == 2 else self.normalized(node).to(g.dtype)
        use = broadcast_use(g, factor, node.shape, broadcast, layout, batch)
        assert isinstance(use, (AffineUse, BiasUse))
        return type(use)(**{**use.__dict__, "shape": (channels,)})

    def normalized(self, node: Node) -> Tensor:
        x, groups = node.tensor("input"), int(node.saved("group"))
        grouped = x.reshape(x.shape[0], groups, -1)
        mean, rstd = (node.tensor(r).reshape(x.shape[0], groups, 1) for r in ("result1", "result2"))
        return ((grouped - mean) * rstd).reshape(x.shape)


@register("FusedRmsNormBackward0")
class RMSNorm(Rule):
    parameter_edges = frozenset({1})

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return layout.axis < len(node.shape) - len(node.saved("normalized_shape"))

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        shape = tuple(int(s) for s in node.saved("normalized_shape"))
        xhat = (node.saved("input") * node.tensor("result1")).to(g.dtype)
        return broadcast_use(g, xhat, node.shape, shape, layout, batch)
