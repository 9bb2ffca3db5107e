"""Drives chunks of samples and rows through recording, planning and the sweep, and gathers the numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradfast.engine import basis, chunks
from gradfast.engine.backward import sweep
from gradfast.engine.book import book_of
from gradfast.engine.collect import Collector, Metric, SquaredNorm
from gradfast.engine.decide import make_plan
from gradfast.engine.host import (
    BEFORE_SWEEP,
    LEAST_BUDGET_TO_RELEASE,
    Watch,
    keep_freed_memory,
    release_freed_memory,
)
from gradfast.engine.plan import Cost, Plan, StalePlanError
from gradfast.engine.recompute import Recomputation
from gradfast.engine.session import Session
from gradfast.errors import FallbackWarning, HookWarning, ModelError
from gradfast.inputs import Inputs, shapes_of_samples
from gradfast.record import Graph

# For the logits [B, K] of samples ``chunk``: the cotangents [R, B, K], and anything to keep of the rows.
Cotangents = Callable[[Tensor, slice], Tensor]

FIRST_CHUNK = 8
FEW = 5  # tell layouts apart that two samples leave open, before a probe of a whole chunk has to


class Engine:
    """One call of a public function: a model, the parameters asked for, and the metric."""

    def __init__(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        metric: Metric,
        *,
        autocast: torch.dtype | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self.names, self.metric, self.budget = names, metric, memory_budget
        self.model = model
        self.watch: Watch | None = None
        if next(model.parameters()).device.type == "cpu":
            keep_freed_memory()
            if memory_budget is not None and memory_budget >= LEAST_BUDGET_TO_RELEASE:
                self.watch = Watch(memory_budget)
        self.session = Session(model, names, autocast, self.watch)
        self.book = book_of(model)
        self.shapes = {n: p.shape for n, p in self.session.parameters.items()}
        self.fallback: set[str] = set()
        self.reached: set[str] = set()
        # Whether blocks are made again; under a budget the first sample tells.
        self.recompute: bool | None = False if memory_budget is None else None
        self.layouts_open = False

    def run(
        self, x: Inputs, batch: int, cotangents: Cotangents, rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The metric of every sample [B, R, ..., L] and the logits [B, K]; ``rows`` are R, or None for one a class.

        How many samples go together does not depend on what was run before, for the last bits depend on it.
        """
        values: list[Tensor] = []
        logits: list[Tensor] = []
        key = (
            shapes_of_samples(x), self.names, self.session.autocast, self.budget, type(self.metric), rows
        )  # fmt: skip
        with self.session.borrow(), self.watch or nullcontext():
            self.session.channels_last = self.book.channels_last
            # Until a few samples have told what one costs, they go to be planned alone; under a budget one, then two, whose plan
            # serves for more.
            known = self.book.sizes.get(key)
            size, start = known or (FIRST_CHUNK if self.budget is None else 1), 0
            self.recompute = self.book.recompute.get(key, self.recompute)
            settled = known is not None
            while start < batch:
                part = slice(start, start + chunks.balanced(batch - start, size))
                wanted = None if settled or part.stop == batch else batch
                if self.watch is not None:
                    self.watch.check()
                try:
                    value, z, size = self._samples(x, part, cotangents, wanted)
                except RuntimeError as error:
                    if not _out_of_memory(error) or part.stop - part.start == 1:
                        raise
                    size, settled = max(1, (part.stop - part.start) // 2), True
                    continue
                if value is not None:
                    values.append(value)
                    logits.append(z)
                    start, settled = part.stop, True
                elif size < part.stop - part.start:
                    settled = True  # there were more samples than fit
                elif part.stop == 1:
                    size = min(size, 2)
                elif part.stop == 2 and self.layouts_open:
                    size = min(size, FEW)
            if self.budget is None or batch > 1:  # a batch of one is planned without looking for samples
                self.book.sizes[key] = size
            if self.recompute is not None:
                self.book.recompute[key] = self.recompute
            self.book.channels_last = self.session.channels_last
            found = torch.cat(values), torch.cat(logits)
        if not self.reached:
            raise ModelError(
                "model: its output does not depend on any of the selected parameters; wanted logits that do"
            )
        self._warn()
        return found

    @property
    def unused(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n not in self.reached)

    def _samples(
        self, x: Inputs, part: slice, cotangents: Cotangents, batch: int | None = None
    ) -> tuple[Tensor | None, Tensor, int]:
        """The metric of some samples, or None if they are too many, or too few for the first of ``batch``; their logits; and how
        many fit at a time.
        """
        count = part.stop - part.start
        graph, z, tape = self.session.record(x, part, recompute=self.recompute is not False)
        v = cotangents(z, part)
        if graph is None:
            return self._stack({}, v, count), z, count
        self.reached |= graph.reached & set(self.names)
        self._warn_of_hooks(graph)
        plan = self._plan(graph, z, count, tape)
        if plan.open and batch is not None and 2 < count <= FEW:
            plan = self._plan_anew(graph, z, plan)
        self.layouts_open = bool(plan.open)
        q = self._basis(graph, plan, v)
        together = self.metric.all_rows or q is not None
        width = v.shape[0] if q is None else q.shape[1]
        if self.recompute is None:
            assert self.budget is not None
            self.recompute = not chunks.keeps_all(plan.cost, width, self.budget, together)
        fit, rows = chunks.chunk(self._cost(plan, tape), count, width, self.budget, together)
        if fit < count or (batch is not None and chunks.balanced(batch, fit) > count):
            return None, z, fit
        try:
            found = self._served(graph, plan, v, q, rows)
        except StalePlanError:
            plan = self._plan_anew(graph, z, plan)
            found = self._served(graph, replace(plan, open={}), v, self._basis(graph, plan, v), rows)
        if plan.unserved:
            del graph
            self.fallback |= plan.unserved
            found |= self._one_by_one(x, part, cotangents, v, z, plan.unserved)
        return self._stack(found, v, count), z, fit

    def _served(self, graph: Graph, plan: Plan, v: Tensor, q: Tensor | None, rows: int) -> dict[str, Tensor]:
        """The metric by parameter, of those that the plan serves, by the basis ``q`` or row by row.

        Raises:
            StalePlanError: what the plan leaves open matters for these samples.
        """
        if self.watch is not None:
            self.watch.check(BEFORE_SWEEP)
        if q is not None:
            return self._sweep_basis(graph, plan, v, q)
        return self._sweep(graph, plan, v, rows) if set(self.names) - plan.unserved else {}

    def _plan_anew(self, graph: Graph, logits: Tensor, stale: Plan) -> Plan:
        with torch.no_grad():
            plan = make_plan(graph, logits, stale.batch, stale)
        plan.cost = stale.cost
        self.book.add(graph, plan)
        return plan

    def _plan(self, graph: Graph, logits: Tensor, batch: int, tape: Recomputation | None = None) -> Plan:
        """Its cost is that of a pass that keeps everything."""
        plan = self.book.find(graph, batch)
        if plan is None:
            with torch.no_grad():
                plan = make_plan(graph, logits, batch)
            plan.cost = chunks.measure(graph, plan, None if tape is None else tape.bytes_if_kept)
            if self.session.device.type == "cpu":  # the probes and their cotangents left gaps
                release_freed_memory()
            self.book.add(graph, plan)
        return plan

    def _cost(self, plan: Plan, tape: Recomputation | None) -> Cost:
        """What a sample needs in the passes to come, of which this is one."""
        if tape is None or not self.recompute:
            return plan.cost
        return replace(plan.cost, activations=-(-tape.bytes // plan.batch))

    def _basis(self, graph: Graph, plan: Plan, v: Tensor) -> Tensor | None:
        """Where fewer rows than ``v`` has tell all its norms: what they are made of, [K, F]."""
        if not isinstance(self.metric, SquaredNorm) or plan.unserved:
            return None
        q = basis.head_basis(graph, plan, v.shape[0])
        if q is None or not chunks.holds(plan.cost, q.shape[1], self.budget):
            return None
        return q.to(v.dtype)

    def _sweep(self, graph: Graph, plan: Plan, v: Tensor, rows: int) -> dict[str, Tensor]:
        """The metric by parameter, [B, R, ...], a chunk of rows at a time."""
        parts: list[dict[str, Tensor]] = []
        for part in chunks.slices(v.shape[0], rows):
            scaled, exponent = _normalize(v[part])
            found = self._back(graph, plan, scaled, self.metric)
            parts.append({n: self._rescale(value, exponent) for n, value in found.items()})
        return {n: torch.cat([p[n] for p in parts], 1) for n in parts[0]} if parts else {}

    def _sweep_basis(self, graph: Graph, plan: Plan, v: Tensor, q: Tensor) -> dict[str, Tensor]:
        """Squared norms by parameter, [B, R], from the rows of q' [F, K] alone (see `engine.basis`)."""
        assert isinstance(self.metric, SquaredNorm)
        scaled, exponent = _normalize(v)
        mix = torch.einsum("rbk,kf->brf", scaled, q)
        metric = basis.BasisNorm(mix, self.metric.across_rows())
        rows = q.t()[:, None].expand(-1, v.shape[1], -1)
        found = self._back(graph, plan, rows, metric, leave=basis.head_parameters(graph, plan))
        found |= self._head(graph, plan, scaled)
        return {n: self._rescale(value, exponent) for n, value in found.items()}

    def _head(self, graph: Graph, plan: Plan, v: Tensor) -> dict[str, Tensor]:
        """The metric of the parameters of the layer that makes the logits, [B, R]."""
        collector = Collector(graph, plan, self.metric, self.shapes, v.shape[0])
        with torch.no_grad():
            basis.take_head(graph, plan, v, collector)
        return collector.results

    def _back(
        self, graph: Graph, plan: Plan, v: Tensor, metric: Metric, leave: Container[str] = frozenset()
    ) -> dict[str, Tensor]:
        """A metric by parameter, [B, R, ...], of rows that go back together; but for the parameters ``leave``."""
        collector = Collector(graph, plan, metric, self.shapes, v.shape[0], leave)
        with torch.no_grad():
            start = v.to(graph.root.dtypes[graph.root_output])
            norms = isinstance(metric, SquaredNorm)
            sweep(graph, plan, start, collector, norms=norms, watch=self.watch)
            collector.flush()
        return collector.results

    def _rescale(self, value: Tensor, exponent: Tensor) -> Tensor:
        """Undo the scale 2^-exponent [R, B] of the cotangents: squared where the metric is quadratic."""
        if self.metric.scale_free:
            return value
        scale = torch.exp2(exponent.t().to(value.dtype))
        if self.metric.additive:
            return value * scale
        if self.metric.all_rows:
            return value * scale[:, :, None] * scale[:, None, :]
        return value.clamp_min(0) * scale * scale

    def _one_by_one(
        self,
        x: Inputs,
        part: slice,
        cotangents: Cotangents,
        v: Tensor,
        logits: Tensor,
        names: Iterable[str],
    ) -> dict[str, Tensor]:
        """The exact path for parameters whose samples cannot be told apart in a batch: every sample alone."""
        wanted = tuple(n for n in self.names if n in set(names))
        session = Session(self.model, wanted, self.session.autocast, self.watch)
        found: dict[str, list[Tensor]] = {n: [] for n in wanted}
        session.channels_last = self.session.channels_last
        with session.borrow():
            for i, b in enumerate(range(part.start, part.stop)):
                drawn = torch.get_rng_state()
                graph, z, tape = session.record(x, slice(b, b + 1), recompute=bool(self.recompute))
                rows = v[:, i : i + 1]
                if torch.equal(drawn, torch.get_rng_state()):
                    _check_alone(z[0], logits[i], b)
                else:  # with dropout, it was another network
                    rows = cotangents(z, slice(b, b + 1))
                got: Mapping[str, Tensor] = {}
                if graph is not None:
                    plan = self._plan(graph, z, 1, tape)
                    at_a_time = chunks.rows_at_a_time(
                        self._cost(plan, tape), rows.shape[0], self.budget, self.metric.all_rows
                    )
                    got = self._sweep(graph, plan, rows, at_a_time)
                for n in wanted:
                    found[n].append(got[n] if n in got else self._zero(rows, 1))
        return {n: torch.cat(values) for n, values in found.items()}

    def _zero(self, v: Tensor, count: int) -> Tensor:
        rows = v.shape[0]
        return v.new_zeros(
            (count, rows, rows) if self.metric.all_rows else (count, rows, *self.metric.trailing)
        )

    def _stack(self, found: Mapping[str, Tensor], v: Tensor, count: int) -> Tensor:
        zero = self._zero(v, count)
        return torch.stack([found[n].to(v.dtype) if n in found else zero for n in self.names], -1)

    def _warn_of_hooks(self, graph: Graph) -> None:
        if not self.book.told_of_hooks and any(n.name == "BackwardHookFunctionBackward" for n in graph.nodes):
            self.book.told_of_hooks = True
            warnings.warn(
                f"{type(self.model).__name__}: its modules have backward hooks, which are not run; the norms are those of the "
                "gradients without them",
                HookWarning,
                stacklevel=5,
            )

    def _warn(self) -> None:
        if self.fallback and not self.book.warned:
            self.book.warned = True
            names = [n for n in self.names if n in self.fallback]
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            warnings.warn(
                f"{type(self.model).__name__}: {shown} enter the model in a way that has no fast rule; "
                "their norms are exact but taken one sample at a time",
                FallbackWarning,
                stacklevel=4,
            )


def _check_alone(alone: Tensor, in_batch: Tensor, sample: int) -> None:
    """Raises ModelError if a sample has other logits in a batch than alone: then the samples depend on each other."""
    near = 1e-2 if alone.dtype in (torch.bfloat16, torch.float16) else 1e-3
    scale = in_batch.abs().max()
    if scale.isfinite() and not bool(((alone - in_batch).abs() <= near * scale).all()):
        raise ModelError(
            f"model: the logits of sample {sample} depend on the other samples of its batch, so no per-sample gradient "
            "exists; wanted a model that treats each sample alone"
        )


def _normalize(v: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangents [R, B, K] scaled by powers of two to a largest entry near 1, which loses nothing and keeps small ones from
    underflow; and the exponents [R, B].
    """
    largest = v.abs().amax(2)
    exponent = torch.where((largest > 0) & largest.isfinite(), torch.floor(torch.log2(largest)), 0)
    return torch.ldexp(v, -exponent[:, :, None]), exponent


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
