"""What `gradfast.explain` returns: the plan of a model with its costs, as data and as a table."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gradfast.engine.explain import NormCost, StepCost, WatchedEngine

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Explanation", "LayerPlan", "Step"]


@dataclass(frozen=True)
class LayerPlan:
    """One parameter tensor.

    Attributes:
        name: as in ``model.named_parameters()``.
        shape: of the parameter.
        operation: the recorded operation at which the norms were taken, as autograd names it.
        form: how: ``direct``, ``gram``, ``pixel_gram``, ``rank_one`` (by the kernels' cost model), ``winograd`` (with the
            input gradient), ``fused`` (with the activation's and norm layer's backward), ``sum`` (bias), ``affine``,
            ``tokens`` (embedding), ``dense`` (each sample's gradient formed alone), ``basis`` (a Gram matrix across fewer rows
            than were asked for, which tells the norms of all); ``unused`` if nothing reached it.
        flops: of the norms of all samples and rows; a multiply and an add are two.
        bytes: of the operands, each read once.
        kernel: the CUDA kernel with its arithmetic and tile, such as ``direct tf32 64x64``; empty on the CPU, unless
            CUDA's choice was asked for.
        seconds: measured. The time of ``winograd`` and ``fused`` norms is in the step that they came with.
        fallback: whether this parameter takes the path of one sample at a time.
    """

    name: str
    shape: tuple[int, ...]
    operation: str
    form: str
    flops: float
    bytes: float
    seconds: float
    fallback: bool
    kernel: str = ""


@dataclass(frozen=True)
class Step:
    """One recorded operation's backward for all rows.

    ``way`` is ``carry``, ``winograd`` (together with the norms), ``fused`` (this and the norm layers behind it in one pass),
    ``dense`` or ``end`` (no cotangent goes on); ``seconds`` are without the norms that were taken there, those of ``parameters``.
    """

    operation: str
    shape: tuple[int, ...]
    way: str
    seconds: float
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The plan of one call of `gradfast.grad_norms`, with its costs.

    Attributes:
        layers: one for each selected parameter.
        steps: one for each operation of the recorded graph, last first.
        samples, rows: of the call; ``samples_per_chunk`` and ``rows_per_chunk`` of them go back together.
        activation_bytes, cotangent_bytes: what the forward pass of a sample gives to keep, and what one row of a sample needs at the
            fullest moment of the way back.
        recomputed: whether a memory budget has the activations inside the model's blocks made again instead.
        seconds: of the whole call; ``backward_seconds`` of it were spent after the forward pass.
    """

    layers: tuple[LayerPlan, ...]
    steps: tuple[Step, ...]
    samples: int
    rows: int
    samples_per_chunk: int
    rows_per_chunk: int
    activation_bytes: int
    cotangent_bytes: int
    recomputed: bool
    seconds: float
    backward_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(width=120, file=text, color_system=None).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        per_sample = 1e3 / self.samples
        norms = sum(layer.seconds for layer in self.layers)
        steps = sum(step.seconds for step in self.steps)
        lines = [
            f"{self.samples} samples, {self.rows} rows, in chunks of {self.samples_per_chunk} samples and {self.rows_per_chunk} "
            f"rows; a sample keeps {_size(self.activation_bytes)} of activations"
            f"{' (those inside blocks are made again)' if self.recomputed else ''} and {_size(self.cotangent_bytes)} a row.",
            f"ms per sample: {self.seconds * per_sample:.3g} in all; forward and planning "
            f"{(self.seconds - self.backward_seconds) * per_sample:.3g}, carrying cotangents (with fused norms) "
            f"{steps * per_sample:.3g}, norms {norms * per_sample:.3g}.",
        ]
        fallen = [layer.name for layer in self.layers if layer.fallback]
        if fallen:
            lines.append(f"One sample at a time: {', '.join(fallen)}.")
        return Group(self._layer_table(per_sample), self._step_table(per_sample), Text("\n".join(lines)))

    def _layer_table(self, per_sample: float) -> RenderableType:
        from rich import box
        from rich.table import Table

        table = Table(title="Norms, per sample", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("parameter", no_wrap=True)
        table.add_column("shape")
        table.add_column("form")
        on_cuda = any(layer.kernel for layer in self.layers)
        if on_cuda:
            table.add_column("CUDA kernel", no_wrap=True)
        for heading in ("MFLOP", "MB", "ms", "GFLOP/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for layer in self.layers:
            own_time = layer.seconds > 0 and layer.form not in ("winograd", "fused")
            table.add_row(
                layer.name,
                "x".join(map(str, layer.shape)),
                f"[yellow]{layer.form}, alone[/]" if layer.fallback else layer.form,
                *([layer.kernel] if on_cuda else []),
                f"{layer.flops / self.samples / 1e6:.3g}",
                f"{layer.bytes / self.samples / 1e6:.3g}",
                f"{layer.seconds * per_sample:.3g}" if own_time else "in the step",
                f"{layer.flops / layer.seconds / 1e9:.3g}" if own_time else "",
            )
        return table

    def _step_table(self, per_sample: float) -> RenderableType:
        """Steps of the same operation and way together: a network has hundreds."""
        from rich import box
        from rich.table import Table

        table = Table(
            title="Cotangents, per sample", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("operation", overflow="fold")
        table.add_column("way")
        table.add_column("times", justify="right")
        table.add_column("ms", justify="right", no_wrap=True)
        groups: dict[tuple[str, str], list[float]] = {}
        for step in self.steps:
            groups.setdefault((step.operation.removesuffix("Backward0"), step.way), []).append(step.seconds)
        for (operation, way), seconds in sorted(groups.items(), key=lambda item: -sum(item[1])):
            table.add_row(operation, way, str(len(seconds)), f"{sum(seconds) * per_sample:.3g}")
        return table


def explanation(engine: WatchedEngine, samples: int, rows: int, seconds: float) -> Explanation:
    """What a watched engine has seen in one call."""
    plan = max(engine.plans, key=lambda p: p.batch)
    return Explanation(
        layers=tuple(
            _layer(n, tuple(engine.shapes[n]), engine.metric.costs.get(n), n in engine.fallback)
            for n in engine.names
        ),
        steps=tuple(_step(s) for s in engine.steps.values()),
        samples=samples,
        rows=rows,
        samples_per_chunk=min(samples, plan.batch),
        rows_per_chunk=max(engine.rows),
        activation_bytes=plan.cost.activations,
        cotangent_bytes=plan.cost.cotangents,
        recomputed=bool(engine.recompute),
        seconds=seconds,
        backward_seconds=engine.sweep_seconds,
    )


def _layer(name: str, shape: tuple[int, ...], cost: NormCost | None, fallback: bool) -> LayerPlan:
    if cost is None:
        return LayerPlan(name, shape, "", "unused", 0.0, 0.0, 0.0, fallback)
    operation = cost.operation.removesuffix("Backward0")
    return LayerPlan(
        name, shape, operation, cost.form, cost.flops, cost.bytes, cost.seconds, fallback, cost.kernel
    )


def _step(cost: StepCost) -> Step:
    return Step(cost.operation, cost.shape, cost.way, cost.seconds, tuple(cost.parameters))


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
