"""The slow truth: the public functions again by plain autograd, one sample and one row at a time.

Nothing here is clever, and nothing of the arithmetic is shared with the fast engine: each loss is torch's own
function, differentiated from end to end. The work is done on a copy of the model, in the model's dtype, or in
``dtype`` if one is given (float64 for the truth). Complex parameters count as pairs of real ones. ``memory_budget`` is checked and has no effect. A model that draws
random numbers (dropout in train mode) draws them sample by sample here, so its masks differ from those of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradfast.contrast import ClassesLike, Contrast, ContrastLike, LossLike
from gradfast.errors import InputError, ModelError, describe
from gradfast.inputs import Inputs, call, check_inputs, check_model, check_reference, map_tensors, slice_batch
from gradfast.losses import LossFunction
from gradfast.options import COMPUTE_DTYPES, parse_dtype, parse_memory_budget
from gradfast.results import GradCosines, GradDots, GradGram, GradNorms
from gradfast.selection import parameter_aliases, select_layers

__all__ = ["grad_cosines", "grad_dots", "grad_gram", "grad_norms"]

_TEXTBOOK: dict[str, LossFunction] = {
    "cross_entropy": lambda z, t: F.cross_entropy(z, t, reduction="sum"),
    "bce": lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="sum"),
    "bce_softmax": lambda z, t: F.binary_cross_entropy(z.softmax(1), t, reduction="sum"),
    "mse": lambda z, t: F.mse_loss(z, t, reduction="sum"),
}


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
    """Squared gradient norms, ``values[b, c, l] = || d loss(z_b, target_c) / d theta_l ||^2``.

    Arguments, result and errors are those of `gradfast.grad_norms`; ``dtype`` may be float64, too.
    """
    held = Contrast.parse(contrast, loss, classes)
    run = _Run(model, x, layers, dtype, memory_budget)
    values, logits, of_rows = run.per_row(held, lambda name, gradient: gradient.abs().square().sum())
    return GradNorms(values, run.names, logits, of_rows, unused=run.unused, settings=held.settings)


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
    """Inner products, ``values[b, c, l] = < d loss(z_b, target_c) / d theta_l, reference[l] >``.

    Arguments, result and errors are those of `gradfast.grad_dots`; ``dtype`` may be float64, too.
    """
    held = Contrast.parse(contrast, loss, classes)
    run = _Run(model, x, layers, dtype, memory_budget, reference)
    values, logits, of_rows = run.per_row(
        held, lambda name, gradient: (gradient.conj() * reference[name].to(gradient)).real.sum()
    )
    return GradDots(values, run.names, logits, of_rows, unused=run.unused, settings=held.settings)


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
    """Cosines, ``values[b, c, l] = cos(d loss(z_b, target_c) / d theta_l, reference[l])``; NaN where either is zero.

    Arguments, result and errors are those of `gradfast.grad_cosines`; ``dtype`` may be float64, too.
    """
    held = Contrast.parse(contrast, loss, classes)
    run = _Run(model, x, layers, dtype, memory_budget, reference)

    def cosine(name: str, gradient: Tensor) -> Tensor:
        other = reference[name].to(gradient)
        unit, other = (t / torch.linalg.vector_norm(t) for t in (gradient, other))
        return torch.sum((unit.conj() * other).real).clamp(-1, 1)

    values, logits, of_rows = run.per_row(held, cosine)
    return GradCosines(values, run.names, logits, of_rows, unused=run.unused, settings=held.settings)


def grad_gram(
    model: nn.Module,
    x: Inputs,
    *,
    layers: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: int | str | None = None,
) -> GradGram:
    """Gram matrices, ``values[b, l, j, k] = < d z_bj / d theta_l, d z_bk / d theta_l >``.

    Arguments, result and errors are those of `gradfast.grad_gram`; ``dtype`` may be float64, too.
    """
    run = _Run(model, x, layers, dtype, memory_budget)
    values, logits = [], []
    with run.recording():
        for b in range(run.batch):
            z = run.forward(b)
            rows = [run.gradients(z[0, k]) for k in range(z.shape[1])]
            jacobians = (torch.stack([row[name].flatten() for row in rows]) for name in run.names)
            values.append(torch.stack([(j @ j.conj().t()).real for j in jacobians]))
            logits.append(z.detach())
        return GradGram(torch.stack(values), run.names, torch.cat(logits), unused=run.unused)


class _Run:
    """A copy of the model that wants gradients of the selected parameters, and the batch to put through it."""

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        layers: str | Sequence[str] | None,
        dtype: torch.dtype | None,
        memory_budget: int | str | None,
        reference: Mapping[str, Tensor] | None = None,
    ) -> None:
        parse_memory_budget(memory_budget)
        parse_dtype(dtype, (*COMPUTE_DTYPES, torch.float64))
        parameters = check_model(model)
        self.batch = check_inputs(parameters, x)
        names = tuple(parameters) if reference is None else check_reference(parameters, reference)
        self.names = select_layers(names, layers, parameter_aliases(model))
        self._used: set[str] = set()
        with torch.inference_mode(False):
            self.model = copy.deepcopy(model)
            self.x = map_tensors(torch.clone, x)
            if dtype is not None:
                self.model = self.model.to(dtype)
                self.x = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, self.x)
            copies = dict(self.model.named_parameters())
            for name in parameters:
                copies[name].requires_grad_(name in self.names)
                copies[name].grad = None
        self.parameters = [copies[name] for name in self.names]

    @property
    def unused(self) -> tuple[str, ...]:
        """The parameters that no gradient has reached."""
        return tuple(name for name in self.names if name not in self._used)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Autograd on, whatever the caller's mode, and the caller's random state kept."""
        devices = {p.device for p in self.parameters if p.device.type == "cuda"}
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(list(devices)):
            yield

    def forward(self, b: int) -> Tensor:
        """The logits [1, K] of sample b, attached to the graph."""
        z = call(self.model, slice_batch(self.x, slice(b, b + 1)))
        if not isinstance(z, Tensor) or z.dim() != 2 or z.shape[0] != 1:
            raise ModelError(
                f"model: its output for one sample is {describe(z)}; wanted logits of shape [1, K]"
            )
        return z

    def gradients(self, value: Tensor) -> dict[str, Tensor]:
        """The gradient of a scalar with regard to each parameter, float32 at least; zeros where there is none."""
        if value.requires_grad:
            value.backward(
                retain_graph=True
            )  # not autograd.grad, which a re-entrant checkpoint does not allow
        reached = {name for name, p in zip(self.names, self.parameters, strict=True) if p.grad is not None}
        if not reached:
            raise ModelError(
                "model: its output does not depend on any of the selected parameters; wanted logits that do"
            )
        self._used |= reached
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in self.parameters]
        self.model.zero_grad(set_to_none=True)
        return {name: _at_least_float32(g) for name, g in zip(self.names, gradients, strict=True)}

    def per_row(
        self, held: Contrast, measure: Callable[[str, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``measure(name, gradient)`` of every sample, row and layer, [B, C, L]; the logits; the rows' classes."""
        held.check_batch(self.batch)
        values, logits, classes = [], [], []
        with self.recording():
            for b in range(self.batch):
                z = self.forward(b)
                rows = held.samples(slice(b, b + 1)).rows(z)
                z32 = _at_least_float32(z)
                measured = []
                for target in rows.targets.reshape(-1, 1, z.shape[1]):
                    gradients = self.gradients(_loss_of_one_sample(held.loss, z32, target))
                    measured.append(torch.stack([measure(name, g) for name, g in gradients.items()]))
                values.append(torch.stack(measured))
                logits.append(z.detach())
                classes.append(rows.classes)
            first = classes[0]
            if first is not None and first.dim() == 2:
                first = torch.cat([c for c in classes if c is not None])
            return torch.stack(values), torch.cat(logits), first


def _loss_of_one_sample(loss: str | LossFunction, z: Tensor, target: Tensor) -> Tensor:
    value = (_TEXTBOOK[loss] if isinstance(loss, str) else loss)(z, target)
    if not isinstance(loss, str):
        if not isinstance(value, Tensor) or value.shape != (1,):
            raise InputError(
                f"loss: the callable returned {describe(value)} for logits of shape {list(z.shape)}; "
                "wanted one value per sample, a tensor of shape [1]"
            )
        if not value.requires_grad:
            raise InputError(
                "loss: the callable's value is cut off from the logits; wanted a differentiable function"
            )
    return value.sum()


def _at_least_float32(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
