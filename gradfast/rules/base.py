"""The interface of a rule, and the default for operations that have none: autograd's own formula, all rows through vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gradfast.errors import ModelError
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
        """Cotangents of the operands for those of the outputs, one entry each; entry i may be None where ``needs[i]`` is False.

        Elsewhere None is zero, and only autograd's own formula says so: it is asked for whatever `closed_form` leaves out. They
        may have the full shape of a broadcast operand; the caller sums them down.
        """
        # Closed forms are those of real numbers: complex ones meet conjugates.
        known = () if is_complex(node) else self.closed_form(node, grads, needs)
        found = [known[i] if i < len(known) else None for i in range(len(node.edges))]
        left = [i for i, e in enumerate(node.edges) if needs[i] and e is not None and found[i] is None]
        if left:
            all_of_them = vmapped(node, grads)
            for i in left:
                found[i] = all_of_them[i]
        return found

    def closed_form(self, node: Node, grads: Grads, needs: Sequence[bool]) -> Grads:
        """What `carry` is to give, but that entries may be left out (None, or missing at the end)."""
        return ()

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

        Only for nodes of which no operand but the first needs its cotangent, which ``needs_input`` says of that one.

        ``used`` are the operands whose uses are wanted; those that the step did not take are left to ``use``. ``pending`` is to
        be done to g first, where the rule has said that it `takes_pending`.
        """
        return None

    def takes_pending(self, node: Node, g: Tensor, used: Collection[int], batch: int) -> bool:
        """Whether `joint` is sure to take this cotangent of the first output with something pending, and to need it nowhere else."""
        return False

    def operand(self, node: Node, edge: int, batch: int) -> tuple[Node, int]:
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


# Of these torch's batching is wrong (2.14: of the right shape, with wrong values): they are looped over. Of 343 kinds of node, all that
# torch's own list of samples records, there is no other.
_LOOPED = frozenset({"CdistBackward0"})


def vmapped(node: Node, grads: Grads) -> Grads:
    """Autograd's backward formula of the node over all rows, one entry for each operand; a loop over rows where it cannot be
    vectorised.
    """
    custom = hasattr(node.fn, "needs_input_grad")  # a torch.autograd.Function
    present = [i for i, g in enumerate(grads) if g is not None]
    given = [g for g in grads if g is not None]
    returned: list[bool] = []

    def call(*rows: Tensor) -> tuple[Tensor, ...]:
        full: list[Tensor | None] = [None] * len(grads)
        for i, row in zip(present, rows, strict=True):
            full[i] = row
        if custom:
            out = _call_custom(node, full, rows[0].device)
        else:
            out = node.fn(*full)
            out = out if isinstance(out, tuple) else (out,)
        assert len(out) == len(node.edges), node.name
        returned[:] = [o is not None for o in out]
        return tuple(o.to_dense() if o.is_sparse else o for o in out if o is not None)

    def arranged(outs: Sequence[Tensor]) -> Grads:
        found = iter(outs)
        return [next(found) if there else None for there in returned]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        if node.name not in _LOOPED:
            try:
                return arranged(torch.vmap(call)(*given))
            except RuntimeError:
                pass
        # Rows as copies: some formulas count in the cotangent's storage.
        rows = [
            call(*(g[r].clone(memory_format=torch.contiguous_format) for g in given))
            for r in range(given[0].shape[0])
        ]
        return arranged([torch.stack(parts) for parts in zip(*rows, strict=True)])


def _call_custom(
    node: Node, grads: Sequence[Tensor | None], device: torch.device
) -> tuple[Tensor | None, ...]:
    """The backward of a custom function, which gives one entry for each argument, tensor or not: those of its operands.

    Outputs that no cotangent reached get zeros, as from autograd.
    """
    filled = [
        torch.zeros(shape, dtype=dtype, device=device) if g is None else g
        for g, shape, dtype in zip(grads, node.shapes, node.dtypes, strict=True)
    ]
    out = node.fn.apply(*filled)
    out = out if isinstance(out, tuple) else (out,)
    wanted = [i for i, need in enumerate(node.fn.needs_input_grad) if need]
    operands = [i for i, e in enumerate(node.edges) if e is not None]
    if len(wanted) != len(operands) or len(out) <= max(wanted, default=-1):
        raise ModelError(
            f"model: the backward of {node.name.removesuffix('Backward')} gives {len(out)} gradients for "
            f"{len(node.fn.needs_input_grad)} arguments; wanted one for each"
        )
    found: list[Tensor | None] = [None] * len(node.edges)
    for argument, operand in zip(wanted, operands, strict=True):
        found[operand] = out[argument]
    return tuple(found)


def is_complex(node: Node) -> bool:
    """Whether the operation made complex numbers, or real ones of complex operands."""
    operands = (e[0].dtypes[e[1]] for e in node.edges if e is not None)
    return any(dtype.is_complex for dtype in (*node.dtypes, *operands))
