"""An engine that watches itself: per parameter the form of its norm and what it cost, per operation the time of its backward.

Nothing in the engine knows of it. The norms are watched from the metric, which sees every use; the operations from the graph's
sequence of nodes, which the sweep walks: the time between one node and the next is what the first one took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradfast import _C
from gradfast.engine.collect import Gram, Metric, SquaredNorm
from gradfast.engine.paths import View
from gradfast.engine.plan import Action, Plan
from gradfast.engine.run import Engine
from gradfast.record import Graph, Node
from gradfast.rules.uses import (
    AffineUse,
    BiasUse,
    ConvUse,
    EmbeddingUse,
    ExpertsUse,
    LinearUse,
    ReshapedUse,
    TiedUse,
    Use,
)

T = TypeVar("T")


@dataclass
class NormCost:
    """One parameter's squared norms: the ``form`` taken, flops, bytes of the operands and seconds, over all samples and rows.

    ``kernel`` is the CUDA kernel by name, empty on the CPU.
    """

    form: str
    operation: str
    kernel: str = ""
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def add(self, form: str, flops: float, size: float, seconds: float) -> None:
        if form not in self.form.split(" + "):
            self.form += f" + {form}"
        self.flops += flops
        self.bytes += size
        self.seconds += seconds


@dataclass
class StepCost:
    """One recorded operation: how its cotangents went on, seconds without the norms taken there, and whose norms those were."""

    operation: str
    shape: tuple[int, ...]
    way: str
    seconds: float = 0.0
    parameters: list[str] = field(default_factory=list)


class WatchedNorm(SquaredNorm):
    """Squared norms that note what they are taken of, and how long it took."""

    def __init__(self) -> None:
        self.costs: dict[str, NormCost] = {}
        self.cuda = False  # whether to tell CUDA's forms of operands on the CPU
        self.node: Node | None = None  # the operation that the sweep is at
        self.plan: Plan | None = None
        self.inside = 0.0  # seconds of norms at this operation
        self.taken: list[str] = []  # parameters whose norms were taken at it

    def of_use(self, use: Use, view: View) -> Tensor:
        value, seconds = timed(lambda: use.sqnorm(), value_device(use))
        cuda = self.cuda or value_device(use).type == "cuda"
        form, kernel = self._form(use, cuda)
        flops = flops_of(use, form if form in _WEIGHT_FORMS else None)
        self.note(view.parameter, form, flops, _bytes(use), seconds, kernel)
        return value

    def of_dense(self, grads: Tensor, parameter: str) -> Tensor:
        value, seconds = timed(lambda: super(WatchedNorm, self).of_dense(grads, parameter), grads.device)
        self.note(
            parameter, "dense", 2.0 * grads.numel(), float(grads.numel() * grads.element_size()), seconds
        )
        return value

    def note(
        self, parameter: str, form: str, flops: float, size: float, seconds: float, kernel: str = ""
    ) -> None:
        self.inside += seconds
        self.taken.append(parameter)
        operation = self.node.name if self.node is not None else ""
        cost = self.costs.setdefault(parameter, NormCost(form, operation, kernel))
        cost.add(form, flops, size, seconds)

    def across_rows(self) -> Gram:
        return WatchedGram(self)

    def _form(self, use: Use, cuda: bool) -> tuple[str, str]:
        if isinstance(use, BiasUse) and self.node is not None and self.plan is not None:
            summed = use.g.numel() < use.g.shape[0] * torch.Size(self.node.shape).numel()
            if self.node.order in self.plan.fusions and summed:
                return "fused", f"channel_sums {math_of(use)}" if cuda else ""
        return cuda_form_of(use) if cuda else (form_of(use), "")


class WatchedGram(Gram):
    """The Gram matrices across the rows of a basis, noted as norms of the form ``basis``."""

    def __init__(self, watch: WatchedNorm) -> None:
        self._watch = watch

    def of_use(self, use: Use, view: View) -> Tensor:
        value, seconds = timed(use.gram, value_device(use))
        self._watch.note(view.parameter, "basis", across_rows_flops_of(use), _bytes(use), seconds)
        return value


class WatchedEngine(Engine):
    """Computes squared norms as ever, with a `WatchedNorm`, and keeps the costs of every operation."""

    metric: WatchedNorm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metric = WatchedNorm()
        self.steps: dict[tuple[int, int], StepCost] = {}
        self.sweep_seconds = 0.0
        self.plans: list[Plan] = []
        self.rows: set[int] = set()

    def _back(
        self, graph: Graph, plan: Plan, v: Tensor, metric: Metric, leave: Container[str] = frozenset()
    ) -> dict[str, Tensor]:
        self.metric.plan = plan
        if plan not in self.plans:
            self.plans.append(plan)
        self.rows.add(v.shape[0])
        watched = replace(graph, nodes=_Watched(graph.nodes, self))
        found, seconds = timed(
            lambda: super(WatchedEngine, self)._back(watched, plan, v, metric, leave), v.device
        )
        self.sweep_seconds += seconds
        return found

    def _head(self, graph: Graph, plan: Plan, v: Tensor) -> dict[str, Tensor]:
        self.metric.node = graph.root
        found, seconds = timed(lambda: super(WatchedEngine, self)._head(graph, plan, v), v.device)
        self.sweep_seconds += seconds
        return found

    def note(self, node: Node, seconds: float) -> None:
        """The sweep has left a node after so many seconds."""
        metric, plan = self.metric, self.metric.plan
        assert plan is not None
        if node.order in plan.actions:
            # A fallback's graph of one sample is another graph: its steps are kept apart by their number of nodes.
            step = self.steps.setdefault(
                (len(plan.actions), node.order), StepCost(node.name, node.shape, _way(plan, node))
            )
            step.seconds += seconds - metric.inside
            step.parameters += [n for n in metric.taken if n not in step.parameters]
            if any(metric.costs[n].form == "winograd" for n in metric.taken):
                step.way = "winograd"
        metric.inside = 0.0
        metric.taken = []


class _Watched(tuple[Node, ...]):
    """The nodes of a graph; whoever walks them is timed."""

    engine: WatchedEngine

    def __new__(cls, nodes: tuple[Node, ...], engine: WatchedEngine) -> _Watched:
        self = super().__new__(cls, nodes)
        self.engine = engine
        return self

    def __iter__(self) -> Iterator[Node]:
        device = self.engine.session.device
        # Norms taken after the last sweep's end are no part of this one's first node.
        self.engine.metric.inside, self.engine.metric.taken = 0.0, []
        for node in super().__iter__():
            self.engine.metric.node = node
            start = now(device)
            yield node
            self.engine.note(node, now(device) - start)


def form_of(use: Use) -> str:
    """The form that a use's squared norm takes, by the kernels' own choice."""
    if isinstance(use, ConvUse) and use.known_sqnorm is not None:
        return "winograd"
    if isinstance(use, (LinearUse, ConvUse)):
        return _forms(use)[0]
    if isinstance(use, ExpertsUse):
        return form_of(_first_expert(use))
    if isinstance(use, ReshapedUse):
        return form_of(use.use)
    names: dict[type[Use], str] = {
        BiasUse: "sum",
        AffineUse: "affine",
        EmbeddingUse: "tokens",
        TiedUse: "tied",
    }
    return names.get(type(use), "dense")


def cuda_form_of(use: Use) -> tuple[str, str]:
    """The form and the kernel that a use's squared norm takes on CUDA, by the CUDA operators' own choice.

    Operands on the CPU stand for the same on a GPU of an A100's size.
    """
    if isinstance(use, (LinearUse, ConvUse)):
        device = value_device(use)
        processors = (
            torch.cuda.get_device_properties(device).multi_processor_count
            if device.type == "cuda"
            else _A100_MULTIPROCESSORS
        )
        return _C.cuda_weight_norm_form(*_geometry(use), math_of(use), processors)
    if isinstance(use, ExpertsUse):
        return cuda_form_of(_first_expert(use))
    if isinstance(use, ReshapedUse):
        return cuda_form_of(use.use)
    kernels: dict[type[Use], str] = {BiasUse: "channel_sums", AffineUse: "channel_sums", EmbeddingUse: "runs"}
    kernel = kernels.get(type(use))
    return form_of(use), f"{kernel} {math_of(use)}" if kernel else ""


_A100_MULTIPROCESSORS = 108
_WEIGHT_FORMS = ("direct", "gram", "pixel_gram", "rank_one")
_MATHS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}


def math_of(use: Use) -> str:
    """How CUDA multiplies a use's operands: ``tf32`` where torch allows it for float32."""
    if isinstance(use, ReshapedUse):
        return math_of(use.use)
    name = _MATHS[_cotangent(use).dtype]
    allowed = {
        LinearUse: torch.backends.cuda.matmul.allow_tf32,
        ConvUse: torch.backends.cudnn.allow_tf32,
    }
    return "tf32" if name == "fp32" and allowed.get(type(use)) else name


def _geometry(
    use: LinearUse | ConvUse,
) -> tuple[
    Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int], int, bool, int
]:
    """Shapes and arguments of conv_sqnorm, of which a linear layer is a case."""
    if isinstance(use, LinearUse):
        x, g = use.x.transpose(1, 2), use.g.transpose(2, 3)
        return x.shape, g.shape, [1], [1], [0], [1], 1, False, 1
    return (
        use.x.shape, use.g.shape, use.weight_shape[2:], use.stride, use.padding, use.dilation, use.groups,
        use.transposed, use.frames,
    )  # fmt: skip


def _forms(use: LinearUse | ConvUse) -> tuple[str, dict[str, float]]:
    return _C.weight_norm_forms(*_geometry(use))


def _first_expert(use: ExpertsUse) -> LinearUse:
    return LinearUse(use.x[0], use.g[:, 0], use.transposed)


def flops_of(use: Use, form: str | None = None) -> float:
    """Additions and multiplications of a use's squared norms, all samples and rows; ``form`` other than the kernels' own choice."""
    if isinstance(use, ConvUse) and use.known_sqnorm is not None and form is None:
        # F(3x3, 4x4): 36 products for the 16 positions of a tile, each pair of channels; transforms not counted.
        return 2 * 36 / 16 * use.g.numel() * use.weight_shape[1]
    if isinstance(use, (LinearUse, ConvUse)):
        chosen, flops = _forms(use)
        samples = use.x.shape[0] // (use.frames if isinstance(use, ConvUse) else 1)
        return flops[form or chosen] * samples
    if isinstance(use, ExpertsUse):
        return flops_of(_first_expert(use), form) * use.x.shape[0]
    if isinstance(use, ReshapedUse):
        return flops_of(use.use, form)
    if isinstance(use, TiedUse):
        products = use.table.g.numel() * use.linear.x.shape[1]
        return flops_of(use.table) + flops_of(use.linear) + 2.0 * products
    return 2.0 * use.g.numel() if isinstance(use, AffineUse) else float(_cotangent(use).numel())


def across_rows_flops_of(use: Use) -> float:
    """The same for the inner products of all pairs of rows."""
    if isinstance(use, (LinearUse, ConvUse)):
        samples = use.x.shape[0] // (use.frames if isinstance(use, ConvUse) else 1)
        return _C.weight_gram_flops(*_geometry(use)) * samples
    if isinstance(use, ExpertsUse):
        return across_rows_flops_of(_first_expert(use)) * use.x.shape[0]
    if isinstance(use, ReshapedUse):
        return across_rows_flops_of(use.use)
    return flops_of(use) * _cotangent(use).shape[0]


def _bytes(use: Use) -> float:
    """Of the operands, each read once."""
    return float(sum(t.numel() * t.element_size() for t in _operands(use)))


def _operands(use: Use) -> list[Tensor]:
    if isinstance(use, ReshapedUse):
        return _operands(use.use)
    if isinstance(use, TiedUse):
        return _operands(use.table) + _operands(use.linear)
    return [t for name, t in vars(use).items() if isinstance(t, Tensor) and name != "known_sqnorm"]


def _cotangent(use: Use) -> Tensor:
    return _operands(use)[-1]


def value_device(use: Use) -> torch.device:
    return _cotangent(use).device


def _way(plan: Plan, node: Node) -> str:
    """How the sweep treats a node."""
    if node.order in plan.fusions:
        return "fused"
    actions = plan.actions[node.order]
    if Action.DENSE in actions and plan.batch == 1:
        return "dense"
    return "carry" if Action.CARRY in actions else "end"


def now(device: torch.device) -> float:
    """Seconds on a clock, when all that was launched on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """The result of a call and its seconds."""
    start = now(device)
    value = call()
    return value, now(device) - start
