"""Operations that work position by position on broadcast operands: any operand may be a parameter (a position table, a layer scale)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradfast.rules.base import Grads, Rule, UnaryRule, register
from gradfast.rules.reshape import single
from gradfast.rules.uses import AffineUse, BiasUse, Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout

Factor = Tensor | complex


class Elementwise(Rule, ABC):
    """Operand i's cotangent is g * factor(i), the factor broadcast to the output's shape."""

    parameter_edges = frozenset({0, 1})

    @abstractmethod
    def factor(self, node: Node, edge: int) -> Factor:
        """The derivative of the output by operand ``edge``; its conjugate, where it is complex."""

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = single(grads)
        return [scaled(g, self.factor(node, i)) if need else None for i, need in enumerate(needs)]

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        return broadcast_keeps_samples(node.shape, operand_shape(node, edge), layout)

    def drops_samples(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return batch > 1 and not self.keeps_samples(node, edge, layout)

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        return broadcast_use(g, self.factor(node, edge), node.shape, operand_shape(node, edge), layout, batch)


def operand_shape(node: Node, edge: int) -> tuple[int, ...]:
    target = node.edges[edge]
    assert target is not None
    return target[0].shapes[target[1]]


def broadcast_keeps_samples(full: tuple[int, ...], shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether an operand of ``shape``, broadcast to ``full``, has the axis on which the samples lie."""
    axis = layout.axis - (len(full) - len(shape))
    return 0 <= axis < len(shape) and shape[axis] == full[layout.axis] != 1


def scaled(g: Tensor, factor: Factor) -> Tensor:
    if isinstance(factor, Tensor):
        return g * factor.to(g.dtype)
    return g if factor == 1 else g * factor


def broadcast_use(
    g: Tensor, factor: Factor, full: tuple[int, ...], shape: tuple[int, ...], layout: Layout, batch: int
) -> Use:
    """The use of a tensor of ``shape`` that was broadcast to ``full`` and met the factor there: g [R, *full]."""
    full = full or (1,)  # one number, of a single sample
    aligned = (1,) * (len(full) - len(shape)) + shape
    kept = [d for d, n in enumerate(aligned) if n != 1]
    summed = [d for d, n in enumerate(aligned) if n == 1]

    def arrange(t: Tensor, lead: int) -> Tensor:
        """[lead, *full] -> [lead, B, kept dims, summed dims]"""
        t = layout.split(t.reshape(*t.shape[:lead], *full), batch, lead)
        t = t.permute(*range(lead + 1), *(lead + 1 + d for d in (*kept, *summed)))
        t = t.flatten(lead + 1 + len(kept)) if summed else t.unsqueeze(-1)
        return t.flatten(lead + 1, lead + len(kept)) if kept else t.unsqueeze(lead + 1)

    if isinstance(factor, Tensor):
        return AffineUse(arrange(factor.to(g.dtype).expand(full), 0), arrange(g, 1), shape)
    return BiasUse(arrange(scaled(g, factor), 1), shape)


def scalar(node: Node, name: str) -> complex:
    """A number that the operation kept; its conjugate, where it is complex."""
    value = node.saved(name)
    return value.conjugate() if isinstance(value, complex) else float(value)


@register("AddBackward0", "SubBackward0", "RsubBackward0")
class Sum(Elementwise):
    def factor(self, node: Node, edge: int) -> Factor:
        if edge == 0:
            return -scalar(node, "alpha") if node.name == "RsubBackward0" else 1.0
        alpha = scalar(node, "alpha")
        return {"AddBackward0": alpha, "SubBackward0": -alpha}.get(node.name, 1.0)


@register("MulBackward0")
class Product(Elementwise):
    def factor(self, node: Node, edge: int) -> Factor:
        return node.tensor("other" if edge == 0 else "self").conj()


@register("DivBackward0")
class Quotient(Elementwise):
    """Divided in autograd's order, so that nothing over- or underflows that does not there."""

    def factor(self, node: Node, edge: int) -> Factor:
        other = node.tensor("other")
        return (1 / other if edge == 0 else -(node.tensor("self") / other) / other).conj()

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        g = single(grads)
        by_self = g / node.tensor("other").to(g.dtype) if needs[0] else None
        return [by_self, scaled(g, self.factor(node, 1)) if needs[1] else None]

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        if edge:
            return super().use(node, g, edge, layout, batch)
        g = g / node.tensor("other").conj().to(g.dtype)
        return broadcast_use(g, 1.0, node.shape, operand_shape(node, 0), layout, batch)


@register("ExpandBackward0", "RepeatBackward0")
class Expand(Elementwise):
    """Broadcasting alone: the cotangent is handed on in its full shape. Repeating is no more where it repeats axes of size one."""

    def factor(self, node: Node, edge: int) -> Factor:
        return 1.0

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        if not self._broadcasts(node):
            return ()
        return super().closed_form(node, grads, needs)

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        return self._broadcasts(node) and super().keeps_samples(node, edge, layout)

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        return self._broadcasts(node)

    def _broadcasts(self, node: Node) -> bool:
        shape = operand_shape(node, 0)
        return all(a in (1, b) for a, b in zip(shape[::-1], node.shape[::-1], strict=False))


@register("WhereBackward0")
class Where(Elementwise):
    def factor(self, node: Node, edge: int) -> Factor:
        condition = node.tensor("condition")
        return condition if edge == 0 else condition.logical_not()


class Gate(UnaryRule, ABC):
    """An activation y = f(x), position by position: the cotangent meets a factor that all rows share."""

    @abstractmethod
    def gate(self, node: Node) -> tuple[Tensor, bool]:
        """The gate, of the output's shape, and how it acts: True, as a factor; False, open where it is positive."""

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        gate, multiply = self.gate(node)
        g = single(grads)
        return [g * gate if multiply else torch.ops.aten.threshold_backward(g, gate.expand_as(g), 0)]


@register("ReluBackward0")
class Relu(Gate):
    def gate(self, node: Node) -> tuple[Tensor, bool]:
        return node.tensor("result"), False


@register(
    "GeluBackward0", "SiluBackward0", "HardswishBackward0", "HardsigmoidBackward0", "HardtanhBackward0", "SigmoidBackward0",
    "TanhBackward0", "LeakyReluBackward0", "EluBackward0", "SoftplusBackward0", "MishBackward0", "LogSigmoidBackward0",
)  # fmt: skip
class Activation(Gate):
    """f'(x) is what autograd's formula gives for a cotangent of ones; taken once, not row by row."""

    def gate(self, node: Node) -> tuple[Tensor, bool]:
        like = next(
            (getattr(node.fn, n) for n in ("_saved_self", "_saved_result") if hasattr(node.fn, n)), None
        )
        ones = (
            torch.ones_like(like)
            if isinstance(like, Tensor)
            else torch.ones(node.shape, dtype=node.dtypes[0])
        )
        derivative = node.fn(ones)
        return (derivative[0] if isinstance(derivative, tuple) else derivative), True


@register("PreluKernelBackward0")
class Prelu(Rule):
    """y = x where x > 0, w x elsewhere; w is already broadcast to a channel shape such as [1, C, 1, 1]."""

    parameter_edges = frozenset({1})

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        return broadcast_use(
            g, node.saved("self").clamp(max=0), node.shape, operand_shape(node, edge), layout, batch
        )
