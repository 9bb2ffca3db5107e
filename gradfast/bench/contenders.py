"""The ways to per-sample, per-class gradient norms that torch itself offers, beside gradfast's.

Every contender starts from the model, the samples and the class indices, and does its own forward pass. The loss is cross
entropy against each class, or, for the all-ones contrast, binary cross entropy of the logits against ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradfast

# x [B, ...] and class indices [C] -> squared norms [B, C, L], their sums over the parameters [B, C], or None.
Run = Callable[[Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Prepared:
    """A contender ready to run: the model that it runs (which may lack layers that it cannot take) and the function."""

    model: nn.Module
    run: Run


@dataclass(frozen=True)
class Contender:
    """One way.

    Attributes:
        name: key of its results.
        title: for tables.
        how: how it is used, in a sentence.
        prepare: gets a copy of the model of its own, in eval mode.
        gives: ``"norms"`` per parameter, their ``"total"``, or ``"nothing"`` comparable.
        contrast: ``"one-hot"`` (a row for each class) or ``"all-ones"`` (one row).
        dtype: dtype of the operands of matrix products.
        class_by_class: whether nothing but the forward pass is shared by the classes, so that a few of them cost as much each
            as many.
        plans: whether the first call of a shape makes what later ones use.
    """

    name: str
    title: str
    how: str
    prepare: Callable[[nn.Module], Prepared]
    gives: Literal["norms", "total", "nothing"] = "norms"
    contrast: Literal["one-hot", "all-ones"] = "one-hot"
    dtype: torch.dtype = torch.float32
    class_by_class: bool = False
    plans: bool = False


# Of full gradients held at once by vmap(vmap(grad)); more than this and it goes a few samples at a time.
GRADIENT_BYTES = 1 << 30


def contenders() -> list[Contender]:
    """gradfast in its forms, and what needs nothing but torch."""
    bf16 = torch.bfloat16
    return [
        Contender("gradfast", "gradfast", "`gradfast.grad_norms(model, x)`", _gradfast(), plans=True),
        Contender(
            "gradfast-bf16",
            "gradfast, bf16",
            "the same with `dtype=torch.bfloat16`",
            _gradfast(bf16),
            dtype=bf16,
            plans=True,
        ),
        Contender(
            "input-gradient",
            "torch, input gradient only",
            "`torch.autograd.grad(z, x, V, is_grads_batched=True)`: all classes in one call, parameters frozen; no norms",
            _input_gradient(),
            "nothing",
        ),
        Contender(
            "input-gradient-nhwc",
            "torch, input gradient only, channels_last",
            "the same with model and input in `torch.channels_last`",
            _input_gradient(torch.channels_last),
            "nothing",
        ),
        Contender(
            "input-gradient-bf16",
            "torch, input gradient only, bf16",
            "the same under `torch.autocast(bfloat16)`",
            _input_gradient(autocast=bf16),
            "nothing",
            dtype=bf16,
        ),
        Contender(
            "loop",
            "autograd, loop over samples and classes",
            "one forward pass a sample, one `torch.autograd.grad` a class on the retained graph, norms by `_foreach_norm`",
            _loop,
            class_by_class=True,
        ),
        Contender(
            "vmap",
            "torch.func vmap(vmap(grad))",
            "`vmap` over samples of `vmap` over classes of `grad`, norms inside; `chunk_size` keeps the gradients under 1 GiB",
            _vmap,
            class_by_class=True,
        ),
        Contender(
            "gradfast-all-ones",
            "gradfast, all-ones contrast",
            '`gradfast.grad_norms(model, x, contrast="all-ones")`',
            _gradfast(contrast="all-ones"),
            contrast="all-ones",
            plans=True,
        ),
        Contender(
            "forward-backward",
            "torch, one batched forward and backward",
            "`loss.sum().backward()` for the all-ones contrast: the batch's summed gradient; no norms",
            _forward_backward(),
            "nothing",
            "all-ones",
        ),
        Contender(
            "forward-backward-nhwc",
            "torch, one batched forward and backward, channels_last",
            "the same with model and input in `torch.channels_last`",
            _forward_backward(torch.channels_last),
            "nothing",
            "all-ones",
        ),
    ]


def one_hot_cotangents(z: Tensor, classes: Tensor) -> Tensor:
    """d cross entropy(z_b, c) / d z_b = softmax(z_b) - e_c for logits [B, K] and classes [C]: [C, B, K]."""
    rows = z.detach().softmax(1).repeat(len(classes), 1, 1)
    rows[torch.arange(len(classes)), :, classes] -= 1
    return rows


def _gradfast(
    dtype: torch.dtype | None = None, contrast: Literal["one-hot", "all-ones"] = "one-hot"
) -> Callable[[nn.Module], Prepared]:
    def prepare(model: nn.Module) -> Prepared:
        def run(x: Tensor, classes: Tensor) -> Tensor:
            chosen = None if contrast == "all-ones" else classes.tolist()
            return gradfast.grad_norms(model, x, contrast=contrast, classes=chosen, dtype=dtype).values

        return Prepared(model, run)

    return prepare


def _loop(model: nn.Module) -> Prepared:
    parameters = list(model.parameters())

    def run(x: Tensor, classes: Tensor) -> Tensor:
        values = []
        for b in range(len(x)):
            z = model(x[b : b + 1])
            for c, v in enumerate(one_hot_cotangents(z, classes)):
                grads = torch.autograd.grad(
                    z,
                    parameters,
                    v,
                    retain_graph=c + 1 < len(classes),
                    allow_unused=True,
                    materialize_grads=True,
                )
                values.append(torch.stack(torch._foreach_norm(grads)))
        norms = torch.stack(values).square()
        return norms.view(len(x), len(classes), len(parameters))

    return Prepared(model, run)


def _input_gradient(
    memory_format: torch.memory_format = torch.contiguous_format, autocast: torch.dtype | None = None
) -> Callable[[nn.Module], Prepared]:
    def prepare(model: nn.Module) -> Prepared:
        model = model.requires_grad_(False).to(memory_format=memory_format)
        embedded: list[
            Tensor
        ] = []  # integer inputs have no gradient: that of the first embedding stands for it

        def keep(module: nn.Module, args: object, out: Tensor) -> Tensor:
            out.requires_grad_()
            embedded.append(out)
            return out

        first = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        if first is not None:
            first.register_forward_hook(keep)

        def run(x: Tensor, classes: Tensor) -> None:
            embedded.clear()
            if x.is_floating_point():
                x = x.detach().requires_grad_()
                if x.dim() == 4:
                    x = x.contiguous(memory_format=memory_format)
            with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
                z = model(x)
            v = one_hot_cotangents(z, classes)
            torch.autograd.grad(z, embedded[0] if embedded else x, v, is_grads_batched=True)
            embedded.clear()

        return Prepared(model, run)

    return prepare


def _vmap(model: nn.Module) -> Prepared:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    size = sum(p.numel() * p.element_size() for p in parameters.values())

    def loss(parameters: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        z = functional_call(model, parameters, (sample.unsqueeze(0),))
        return F.cross_entropy(z, label.unsqueeze(0))

    def norms(sample: Tensor, label: Tensor) -> Tensor:
        return torch.stack([g.square().sum() for g in grad(loss)(parameters, sample, label).values()])

    def run(x: Tensor, classes: Tensor) -> Tensor:
        samples = max(1, GRADIENT_BYTES // (size * len(classes)))
        values: Tensor = vmap(vmap(norms, (None, 0)), (0, None), chunk_size=samples)(x, classes)
        return values

    return Prepared(model, run)


def _forward_backward(
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Callable[[nn.Module], Prepared]:
    def prepare(model: nn.Module) -> Prepared:
        model = model.to(memory_format=memory_format)

        def run(x: Tensor, classes: Tensor) -> None:
            model.zero_grad()
            if x.dim() == 4:
                x = x.contiguous(memory_format=memory_format)
            z = model(x)
            F.binary_cross_entropy_with_logits(z, torch.ones_like(z), reduction="sum").backward()

        return Prepared(model, run)

    return prepare
