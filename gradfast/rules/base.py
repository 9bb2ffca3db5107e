"""The interface of a rule, and the default for operations that have none: autograd's own formula, all rows through vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gradfast.rules.uses import Use

if TYPE_CHECKING:
    from gradfast.record.graph import Node
    from gradfast.record.layout import Layout

Grads = Sequence[Tensor | None]


@dataclass(frozen=True)
class Pending:
    """What is yet to be done to a waiting cotangent [R, B, O, *]: v = g * scale [O], 0 where ``mask`` [B, O, *] is not positive."""

    scale: Tensor
    mask: Tensor | None = None


class Rule:
    """How one kind of recorded operation treats cotangents. Rows come first: a cotangent of output i is [R, *node.shapes[i]].

    ``parameter_edges`` are the operands that may be parameters and whose per-sample gradient has a closed form here.
    """

    parameter_edges: ClassVar[frozenset[int]] = frozenset()

    def carry(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        """Cotangents of the operands for those of the outputs (None: zero); entry i may be None where ``needs[i]`` is False.

        They may have the full shape of a broadcast operand; the caller sums them down.
        """
        return vmapped(node, grads)

    def mixes_samples(self, node: Node, batch: int) -> bool:
        """Whether the operation is known to make the samples of a batch depend on each other."""
        return False

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        """Whether operand ``edge``, made of parameters alone, still has one part per sample (an expanded class token)."""
        return False

    def drops_samples(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        """Whether operand ``edge`` was broadcast over the samples, so that no sample can lie behind it."""
        return False

    def serves(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        """Whether ``use`` has a closed form for this operand, with the samples laid out so in the first output."""
        return edge in self.parameter_edges and self.separable(node, edge, layout, batch)

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
        """The work of ``carry`` and of some uses in one step, for squared norms; None where there is no such step.

        ``used`` are the operands whose uses are wanted; those that the step did not take are left to ``use``. ``pending`` is to
        be done to g first, where the rule has said that it `takes_pending`.
        """
        return None

    def takes_pending(self, node: Node, g: Tensor, used: Collection[int], batch: int) -> bool:
        """Whether `joint` is sure to take this cotangent of the first output with something pending, and to need it nowhere else."""
        return False

    def operand(self, node: Node, edge: int) -> tuple[Node, int]:
        """The tensor that ``use`` is a use of: the operand, as its node and output number."""
        target = node.edges[edge]
        assert target is not None
        return target

    def separable(self, node: Node, edge: int, layout: Layout, batch: int) -> bool:
        """Whether the samples can be told apart at a parameter edge in this layout."""
        return True

    def use(self, node: Node, g: Tensor, edge: int, layout: Layout, batch: int) -> Use:
        """The use that operand ``edge`` is put to, given the cotangent g of the first output. Only where ``serves``."""
        raise AssertionError(f"{node.name} has no parameter edge {edge}")


class UnaryRule(Rule):
    """An operation on one operand that neither adds nor drops samples: what is laid out per sample behind it was so before it."""

    def keeps_samples(self, node: Node, edge: int, layout: Layout) -> bool:
        return True


_RULES: dict[str, Rule] = {}
_DEFAULT = Rule()


def register(*names: str) -> Callable[[type[Rule]], type[Rule]]:
    """Make a rule the one for recorded operations of these names."""

    def add(rule: type[Rule]) -> type[Rule]:
        for name in names:
            _RULES[name] = rule()
        return rule

    return add


def rule_for(name: str) -> Rule:
    return _RULES.get(name, _DEFAULT)


def vmapped(node: Node, grads: Grads) -> Grads:
    """Autograd's backward formula of the node over all rows; a loop over rows where it cannot be vectorised."""
    present = [i for i, g in enumerate(grads) if g is not None]
    given = [g for g in grads if g is not None]
    returned: list[bool] = []

    def call(*rows: Tensor) -> tuple[Tensor, ...]:
        full: list[Tensor | None] = [None] * len(grads)
        for i, row in zip(present, rows, strict=True):
            full[i] = row
        run = getattr(node.fn, "apply", node.fn)  # Python's custom functions are called by their apply
        out = run(*full)
        out = out if isinstance(out, tuple) else (out,)
        returned[:] = [o is not None for o in out]
        return tuple(o for o in out if o is not None)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        try:
            outs = torch.vmap(call)(*given)
        except RuntimeError:
            rows = [call(*(g[r] for g in given)) for r in range(given[0].shape[0])]
            outs = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
    results = iter(outs)
    return [next(results) if there else None for there in returned]
