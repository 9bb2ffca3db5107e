"""From a parameter's uses to its numbers: squared norms, dot products with a reference, or Gram matrices across rows.

One use has a kernel of its own. Several uses of the same elements are joined along the positions, since the norm of a sum is
not the sum of norms, and a table that is a weight, too, by the inner product of both; uses of different elements add up. Where none
of these holds (a weight made from other parameters) each sample's gradient is formed alone, a few rows at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradfast.engine.carrier import pull
from gradfast.engine.host import release_freed_memory
from gradfast.engine.paths import View, view_of
from gradfast.engine.plan import Plan
from gradfast.record import Graph, Node
from gradfast.rules.uses import LinearUse, Use, rows_of

# Rows of one sample's dense gradient that are formed together: at most this many elements, but for a single row.
DENSE_ELEMENTS = 1 << 22


def dense_rows(elements: int) -> int:
    """How many rows of one sample's gradient of a parameter of so many elements are formed together."""
    return max(1, DENSE_ELEMENTS // max(1, elements))


class Metric(ABC):
    """What is asked of a gradient. Results are [B, R, ...]."""

    additive = False  # of a sum of gradients it is the sum
    all_rows = False  # it looks at pairs of rows
    scale_free = False  # what is made of it does not change with the gradient's length
    trailing: tuple[int, ...] = ()  # shape of the result of one row

    @abstractmethod
    def of_use(self, use: Use, view: View) -> Tensor: ...

    @abstractmethod
    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        """The same for the gradients [R, *parameter] of one sample: [R, ...]."""

    def finish(self, value: Tensor) -> Tensor:
        """What to keep of a parameter's value, when all of its uses are in it."""
        return value


class SquaredNorm(Metric):
    def of_use(self, use: Use, view: View) -> Tensor:
        return use.sqnorm()

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        return rows_of(grads).square().sum(1)

    def across_rows(self) -> Gram:
        """What gives the same on its diagonal."""
        return Gram()


class Gram(Metric):
    """Inner products of all pairs of rows, [B, R, R]."""

    all_rows = True

    def of_use(self, use: Use, view: View) -> Tensor:
        return use.gram()

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        flat = rows_of(grads)
        return flat @ flat.t()


@dataclass
class Dot(Metric):
    reference: Mapping[str, Tensor]
    additive = True

    def of_use(self, use: Use, view: View) -> Tensor:
        return use.dot(view.apply(self.reference[view.parameter]))

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        return rows_of(grads) @ rows_of(self.reference[parameter].to(grads.dtype)[None])[0]


@dataclass
class Angle(Dot):
    """What a cosine is made of: the dot product and the squared norm, [B, R, 2], both in the units of the scaled cotangents."""

    additive = False
    scale_free = True
    trailing = (2,)

    def of_use(self, use: Use, view: View) -> Tensor:
        sqnorm, dot = use.sqnorm_dot(view.apply(self.reference[view.parameter]))
        return torch.stack([dot, sqnorm], -1)

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        return torch.stack([super().of_dense(grads, parameter), rows_of(grads).square().sum(1)], -1)


@dataclass(frozen=True)
class _Entry:
    """A use of ``output`` of ``node``; and, where that was cut out of one parameter, the same as a use of ``view`` of it."""

    node: Node
    output: int
    use: Use
    view: View | None
    of_view: Use


class Collector:
    """Takes the uses of one sweep and computes the metric of each wanted parameter as soon as its last use is there.

    The parameters ``leave`` are left out.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        metric: Metric,
        shapes: Mapping[str, torch.Size],
        rows: int,
        leave: Container[str] = frozenset(),
    ) -> None:
        self.results: dict[str, Tensor] = {}
        self._graph, self._plan, self._metric, self._shapes, self._rows = graph, plan, metric, shapes, rows
        self._leave = leave
        self._entries: dict[str, list[_Entry]] = {}

    def __call__(self, node: Node, output: int, use: Use) -> None:
        view = view_of(node, output)
        of_view = use
        if view is not None and isinstance(use, LinearUse):
            view, of_view = _untransposed(view, use)
        for name in node.wanted - self._plan.unserved:
            if name in self._leave:
                continue
            entries = self._entries.setdefault(name, [])
            entries.append(_Entry(node, output, use, view, of_view))
            if len(entries) == self._plan.uses[name] or self._metric.additive:
                self._finish(name)

    def flush(self) -> None:
        """Finish the parameters some of whose uses never came, since no cotangent reached them."""
        for name in list(self._entries):
            self._finish(name)

    def _finish(self, name: str) -> None:
        entries = self._entries.pop(name)
        value = self._from_uses(name, entries)
        if value is None:
            value = self._from_gradients(name, entries)
        value = self._metric.finish(value)
        before = self.results.get(name)
        self.results[name] = value if before is None else before + value

    def _from_uses(self, name: str, entries: list[_Entry]) -> Tensor | None:
        views = [e.view for e in entries if e.view is not None]
        if len(views) < len(entries) or any(e.use.is_complex for e in entries):
            return None
        if len(entries) == 1:
            return self._metric.of_use(entries[0].of_view, views[0])
        groups: dict[tuple[object, ...], list[_Entry]] = {}
        for entry, view in zip(entries, views, strict=True):
            groups.setdefault(view.key(), []).append(entry)
        if len(groups) > 1 and not self._disjoint(name, [g[0].view for g in groups.values()]):
            return None
        total: Tensor | None = None
        for group in groups.values():
            first, *others = group
            joined = first.of_view.join([e.of_view for e in others]) if others else first.of_view
            if joined is None or first.view is None:
                return None
            value = self._metric.of_use(joined, first.view)
            total = value if total is None else total + value
        return total

    def _disjoint(self, name: str, views: list[View | None]) -> bool:
        """Whether no element of the parameter is in two of the views."""
        if any(v is None or v.is_whole for v in views):
            return False
        elements = torch.cat([v.elements(self._shapes[name]) for v in views if v is not None])
        return int(elements.unique().numel()) == int(elements.numel())

    def _from_gradients(self, name: str, entries: list[_Entry]) -> Tensor:
        step = self._rows
        if not self._metric.all_rows:
            step = min(step, dense_rows(self._shapes[name].numel()))
        if self._shapes[name].numel() > DENSE_ELEMENTS:
            release_freed_memory()  # so much at once: what the sweep left free must not stand beside it
        samples = []
        for b in range(self._plan.batch):
            parts = []
            for start in range(0, self._rows, step):
                rows = slice(start, start + step)
                total: Tensor | None = None
                for e in entries:  # one at a time: each may be as large as all of the model's activations
                    grads = e.use.grad(b, rows)
                    found = pull(self._graph, e.node, e.output, grads).get(name)
                    if found is None:
                        found = grads.new_zeros((len(grads), *self._shapes[name]))
                    total = found if total is None else total + found
                    del found, grads
                assert total is not None
                parts.append(
                    self._metric.of_dense(total.to(torch.promote_types(total.dtype, torch.float32)), name)
                )
            samples.append(torch.cat(parts))
        return torch.stack(samples)


def _untransposed(view: View, use: LinearUse) -> tuple[View, LinearUse]:
    """A weight [O, D] used as its transpose is a use of the weight itself, so that it joins with others."""
    if view.steps and view.steps[-1][0].name == "TBackward0":
        return View(view.parameter, view.steps[:-1]), replace(use, transposed=not use.transposed)
    return view, use
