"""The public functions: squared gradient norms, dot products with reference gradients, and Gram matrices.

All of them are exact, per sample and per parameter tensor, and leave the model as they found it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gradfast.contrast import ClassesLike, Contrast, ContrastLike, LossLike
from gradfast.engine.collect import Angle, Dot, Gram, Metric, SquaredNorm
from gradfast.engine.explain import WatchedEngine, timed
from gradfast.engine.run import Engine
from gradfast.errors import InputError
from gradfast.explanation import Explanation, explanation
from gradfast.inputs import Inputs, check_inputs, check_model, check_reference, warn_of_dropout
from gradfast.options import parse_dtype, parse_memory_budget
from gradfast.results import GradCosines, GradDots, GradGram, GradNorms
from gradfast.selection import parameter_aliases, select_layers

__all__ = [
    "GradCosines",
    "GradDots",
    "GradGram",
    "GradNorms",
    "explain",
    "grad_cosines",
    "grad_dots",
    "grad_gram",
    "grad_norms",
]


def grad_norms(
    model: nn.Module,
    x: Inputs,
    *,
    contrast: ContrastLike = "one-hot",
    loss: LossLike = None,
    classes: ClassesLike = None,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
) -> GradNorms:
    """Squared gradient norms, ``values[b, c, l] = || d loss(z_b, target_c) / d theta_l ||^2``, for all rows c together.

    The features of Lee et al., "Probing the Purview of Neural Networks via Gradient Analysis" (IEEE Access 2023).

    Args:
        model: a module that maps ``x`` to logits [B, K], with BatchNorm, and as a rule dropout, in eval mode. It is left as
            it was found.
        x: a tensor [B, ...], or a tuple of positional or a dict of keyword arguments whose tensors lead with B.
        contrast: ``"one-hot"`` (a row per class), ``"all-ones"`` (one row, Purview's confounding label), or targets,
            a tensor [C, K] or [B, C, K].
        loss: ``"cross_entropy"``, ``"bce"``, ``"bce_softmax"``, ``"mse"``, or a callable (logits [B, K], targets [B, K])
            -> [B]. None: ``"bce"`` for all-ones, else ``"cross_entropy"``.
        classes: for one-hot: None (all), a sequence of class indices, or an int k (each sample's k most likely classes).
        layers: names, prefixes or glob patterns of parameters; None for all.
        dtype: bfloat16 or float16 runs matrix products and convolutions on such operands, with fp32 sums; the logits
            and the losses stay in the model's dtype. None: the model's dtype.
        memory_budget: bytes, or text such as ``"2GB"``, for activations and cotangents; samples and rows are split to fit.

    Returns:
        `GradNorms` with ``values`` [B, C, L]: float32, or float64 for a float64 model.

    Raises:
        InputError: an argument that cannot be used; the message names it, what came and what was wanted.
        ModelError: a model whose samples mix (BatchNorm in train mode), whose output is not [B, K] or does not depend
            on the selected parameters.

    Warns:
        DropoutWarning: once per model, if a dropout with p > 0 is in train mode: the norms are those of one draw of masks.
        FallbackWarning: once per model, if some parameters take the exact path of one sample at a time.
    """
    held = Contrast.parse(contrast, loss, classes)
    engine, batch = _engine(model, x, SquaredNorm(), layers, dtype, memory_budget)
    held.check_batch(batch)
    values, logits, of_rows = _run(engine, x, batch, held)
    return GradNorms(values, engine.names, logits, of_rows, _in_order(engine), engine.unused, held.settings)


def grad_dots(
    model: nn.Module,
    x: Inputs,
    reference: Mapping[str, Tensor],
    *,
    contrast: ContrastLike = "one-hot",
    loss: LossLike = None,
    classes: ClassesLike = None,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
) -> GradDots:
    """Inner products with given gradients, ``values[b, c, l] = < d loss(z_b, target_c) / d theta_l, reference[l] >``.

    ``reference`` maps parameter names to tensors of the parameters' shapes; the result has these layers. The other
    arguments, errors and warnings are those of `grad_norms`.

    Returns:
        `GradDots` with ``values`` [B, C, L].
    """
    held = Contrast.parse(contrast, loss, classes)
    engine, batch = _engine(model, x, Dot({}), layers, dtype, memory_budget, reference=reference)
    held.check_batch(batch)
    parameters = engine.session.parameters
    kept = {n: reference[n].detach().to(parameters[n]) for n in engine.names}
    engine.metric = Dot(kept)
    values, logits, of_rows = _run(engine, x, batch, held)
    return GradDots(values, engine.names, logits, of_rows, _in_order(engine), engine.unused, held.settings)


def grad_cosines(
    model: nn.Module,
    x: Inputs,
    reference: Mapping[str, Tensor],
    *,
    contrast: ContrastLike = "one-hot",
    loss: LossLike = None,
    classes: ClassesLike = None,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
) -> GradCosines:
    """Cosines with given gradients, ``values[b, c, l] = cos(d loss(z_b, target_c) / d theta_l, reference[l])``, in one sweep.

    The gradient score of GradCON (Kwon et al., ECCV 2020) is made of them. Arguments, errors and warnings are those of
    `grad_dots`.

    Returns:
        `GradCosines` with ``values`` [B, C, L] in [-1, 1]; NaN where a gradient or its reference is zero.
    """
    held = Contrast.parse(contrast, loss, classes)
    engine, batch = _engine(model, x, Angle({}), layers, dtype, memory_budget, reference=reference)
    held.check_batch(batch)
    parameters = engine.session.parameters
    if not isinstance(reference, UnitReference):
        reference = UnitReference({n: reference[n].to(parameters[n]) for n in engine.names})
    engine.metric = Angle({n: reference[n].to(parameters[n]) for n in engine.names})
    pairs, logits, of_rows = _run(engine, x, batch, held)
    dots, squares = pairs.unbind(2)
    known = torch.stack([reference.known[n] for n in engine.names]).to(squares.device)
    cosines = torch.where(known & (squares > 0), dots / squares.clamp_min(0).sqrt(), torch.nan).clamp(-1, 1)
    return GradCosines(
        cosines, engine.names, logits, of_rows, _in_order(engine), engine.unused, held.settings
    )


class UnitReference(dict[str, Tensor]):
    """Reference gradients scaled to length one, for many calls of `grad_cosines`; a zero one stays zero, and is not ``known``."""

    def __init__(self, reference: Mapping[str, Tensor]) -> None:
        super().__init__({name: _unit(r.detach()) for name, r in reference.items()})
        self.known = {name: unit.any() for name, unit in self.items()}


def _unit(reference: Tensor) -> Tensor:
    """Scaled to length one, by way of a largest entry of one, so that no square under- or overflows; zero stays zero."""
    wide = reference.to(torch.promote_types(reference.dtype, torch.float32))
    largest = wide.abs().amax()
    wide = wide / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(wide)
    return (wide / torch.where(length > 0, length, 1)).to(reference.dtype)


def grad_gram(
    model: nn.Module,
    x: Inputs,
    *,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
) -> GradGram:
    """Per-sample Gram matrices, ``values[b, l, j, k] = < d z_bj / d theta_l, d z_bk / d theta_l >``.

    One sample's empirical neural tangent kernel (Jacot et al., NeurIPS 2018), layer by layer; `GradGram.norms` turns it
    into the norms for any loss and any targets. Arguments, errors and warnings are those of `grad_norms`.

    Returns:
        `GradGram` with ``values`` [B, L, K, K].
    """
    engine, batch = _engine(model, x, Gram(), layers, dtype, memory_budget)

    def unit_rows(z: Tensor, chunk: slice) -> Tensor:
        k = z.shape[1]
        eye = torch.eye(k, dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
        return eye[:, None, :].expand(k, z.shape[0], k)

    values, logits = engine.run(x, batch, unit_rows)
    return GradGram(
        values.movedim(-1, 1).contiguous(), engine.names, logits, _in_order(engine), engine.unused
    )


def explain(
    model: nn.Module,
    x: Inputs,
    *,
    contrast: ContrastLike = "one-hot",
    loss: LossLike = None,
    classes: ClassesLike = None,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
    device: Literal["cuda"] | None = None,
) -> Explanation:
    """How `grad_norms` would take these norms, and what each parameter costs: the form chosen, flops, bytes, measured time.

    The norms are taken twice, once to plan and warm up and once to measure; arguments, errors and warnings are those of
    `grad_norms`. ``device="cuda"`` tells the forms and kernels that the CUDA operators choose, of a model on the CPU too,
    for an A100; the times stay those of where the model is.

    Returns:
        `Explanation`: data, which prints as tables (``print(gradfast.explain(model, x))``).
    """
    if device not in (None, "cuda"):
        raise InputError(f"device: got {device!r}; wanted None or 'cuda'")
    held = Contrast.parse(contrast, loss, classes)
    grad_norms(
        model, x, contrast=contrast, loss=loss, classes=classes,
        layers=layers, dtype=dtype, memory_budget=memory_budget,
    )  # fmt: skip
    engine, batch = _engine(model, x, SquaredNorm(), layers, dtype, memory_budget, kind=WatchedEngine)
    assert isinstance(engine, WatchedEngine)
    engine.metric.cuda = device == "cuda"
    (values, *_), seconds = timed(partial(_run, engine, x, batch, held), engine.session.device)
    return explanation(engine, batch, values.shape[1], seconds)


def _engine(
    model: nn.Module,
    x: Inputs,
    metric: Metric,
    layers: str | Sequence[str] | None,
    dtype: torch.dtype | None,
    memory_budget: int | str | None,
    *,
    reference: Mapping[str, Tensor] | None = None,
    kind: type[Engine] = Engine,
) -> tuple[Engine, int]:
    parameters = check_model(model)
    names = tuple(parameters) if reference is None else check_reference(parameters, reference)
    batch = check_inputs(parameters, x)
    warn_of_dropout(model)
    if layers is not None:
        names = select_layers(names, layers, parameter_aliases(model))
    autocast = parse_dtype(dtype)
    if autocast is not None and all(parameters[n].dtype == autocast for n in names):
        autocast = None
    if autocast is torch.float32:
        autocast = None
    budget = parse_memory_budget(memory_budget)
    return kind(model, names, metric, autocast=autocast, memory_budget=budget), batch


def _run(engine: Engine, x: Inputs, batch: int, held: Contrast) -> tuple[Tensor, Tensor, Tensor | None]:
    of_rows: dict[int, Tensor | None] = {}

    def cotangents(z: Tensor, chunk: slice) -> Tensor:
        rows = held.samples(chunk).rows(z)
        of_rows[chunk.start] = rows.classes
        return rows.cotangents()

    values, logits = engine.run(x, batch, cotangents, held.count)
    classes = next(iter(of_rows.values()))
    if classes is not None and classes.dim() == 2:
        # A chunk that did not fit was started again, smaller: of each start the last is what was run.
        with torch.inference_mode(False):
            classes = torch.cat([c for _, c in sorted(of_rows.items()) if c is not None])
    return values, logits, classes


def _in_order(engine: Engine) -> tuple[str, ...]:
    return tuple(n for n in engine.names if n in engine.fallback)
