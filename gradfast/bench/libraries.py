"""Other libraries' ways to the same norms, each as its documentation would have it used.

None of them is needed by gradfast; `pip install '.[bench]'` brings them. What a library has no rule for is NaN in its
result; a model that it cannot run at all raises there.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from .contenders import Contender, Prepared, one_hot_cotangents

__all__ = ["libraries"]


def libraries() -> list[Contender]:
    """BackPACK, Opacus and TorchJD, installed or not: a missing one fails when it is prepared."""
    return [
        Contender(
            "backpack",
            "BackPACK BatchL2Grad, loop over classes",
            "`extend(model)` in eval mode with in-place activations off, one forward pass, then one `z.backward` a class with "
            "`retain_graph` in `backpack(BatchL2Grad())`; opt_einsum is installed, so its contractions are ordered by cost",
            _backpack,
            class_by_class=True,
        ),
        Contender(
            "opacus",
            "Opacus ghost norms, loop over classes",
            "`GradSampleModuleFastGradientClipping` with ghost clipping, BatchNorm replaced by the identity since Opacus "
            "refuses it, parameters held by containers frozen, a forward and a backward pass a class (its hooks consume the "
            "activations), norms from `_norm_sample`",
            _opacus,
            class_by_class=True,
        ),
        Contender(
            "torchjd",
            "TorchJD autogram, all classes at once",
            "`Engine(model, batch_dim=0).compute_gramian` of the losses [B, C]; BatchNorm replaced by the identity since the "
            "batched engine refuses it; the diagonal gives squared norms summed over the parameters",
            _torchjd,
            "total",
        ),
    ]


def _backpack(model: nn.Module) -> Prepared:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = extend(_out_of_place(model))
    parameters = list(model.parameters())

    def run(x: Tensor, classes: Tensor) -> Tensor:
        z = model(x)
        values = []
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about modules that it has no extension for: they come out as NaN
            for c, v in enumerate(one_hot_cotangents(z, classes)):
                retain = c + 1 < len(classes)
                for p in parameters:
                    p.grad = None
                with backpack(BatchL2Grad(), retain_graph=retain):
                    z.backward(v, retain_graph=retain)
                values.append(_columns([getattr(p, "batch_l2", None) for p in parameters], x))
        return torch.stack(values, 1)

    return Prepared(model, run)


def _opacus(model: nn.Module) -> Prepared:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    model = _without_batch_norm(_out_of_place(model))
    for module in model.modules():
        if next(module.children(), None) is not None:
            # Its hooks would run such a module's whole forward again for a class token or a position table.
            for p in module.parameters(recurse=False):
                p.requires_grad_(False)
    plain = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModuleFastGradientClipping(
            model.train(), loss_reduction="sum", use_ghost_clipping=True
        )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    parameters = list(model.parameters())

    def run(x: Tensor, classes: Tensor) -> Tensor:
        values = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for c in range(len(classes)):
                for p in parameters:
                    p.grad = None
                z = wrapped(x)
                z.backward(one_hot_cotangents(z, classes[c : c + 1])[0])
                norms = [getattr(p, "_norm_sample", None) if p.requires_grad else None for p in parameters]
                values.append(_columns(norms, x).square())
        return torch.stack(values, 1)

    return Prepared(plain, run)


def _torchjd(model: nn.Module) -> Prepared:
    from torchjd.autogram import Engine

    model = _without_batch_norm(_out_of_place(model))
    engine = Engine(model, batch_dim=0)

    def run(x: Tensor, classes: Tensor) -> Tensor:
        z = model(x)
        losses = torch.logsumexp(z, 1, keepdim=True) - z[:, classes]
        gramian: Tensor = engine.compute_gramian(losses)
        return gramian.diagonal().detach().reshape(len(x), len(classes))

    return Prepared(model, run)


def _columns(values: list[Tensor | None], x: Tensor) -> Tensor:
    """[B, L] from a column [B] for each parameter, NaN where there is none."""
    missing = torch.full((len(x),), float("nan"), device=x.device)
    return torch.stack([missing if v is None else v.detach().float().reshape(-1) for v in values], 1)


def _out_of_place(model: nn.Module) -> nn.Module:
    """Backward hooks of modules forbid that the next one overwrites their output."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model


def _without_batch_norm(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(model, name, nn.Identity())
        else:
            _without_batch_norm(child)
    return model
