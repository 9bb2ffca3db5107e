"""Training with a gradient constraint: the gradients of normal data are made to point where those before them did.

Kwon et al., "Backpropagated Gradient Representations for Anomaly Detection" (ECCV 2020), section 4. For each weight tensor
theta_l of the decoder, g_l is the gradient of the batch's mean reconstruction error and r_l the mean of the g_l of all batches
before it:

    loss = reconstruction (+ divergence) + weight * mean over l of -cos(g_l, r_l)

What that leaves open is decided here so. The r_l are means of the gradients of the *total* loss, as in the published code (the
cosine's g_l are those of the reconstruction error alone); ``reference="reconstruction"`` takes the g_l for both. The first
batch has no reference, and so no constraint. A batch enters the r_l after its cosines were taken, with its gradients as they
were before the step.

``per_image=True`` and ``reference="direction"`` are ours. The first constrains the mean over l of the mean over a batch's images of -cos(their own
gradients, r_l), which is what the score is of. The second averages gradients scaled to length one, whose mean has the largest mean cosine to all of
them; of a plain mean the first, large gradients are most.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradfast.engine.host import keep_freed_memory
from gradfast.errors import InputError, describe
from gradfast.gradcon.autoencoders import Reconstruction, decoder_weights, kl_weight, reconstruct
from gradfast.gradcon.factors import wide
from gradfast.gradcon.per_image import ImageGradients, Mean, directions

__all__ = ["REFERENCES", "GradConLoss", "GradConTerms", "GradientReference"]

REFERENCES = ("total", "reconstruction", "direction")


class GradConTerms(NamedTuple):
    """The parts of one batch's loss.

    Attributes:
        total: what to call ``backward`` on.
        reconstruction: mean squared error over images and pixels.
        divergence: mean Kullback-Leibler divergence per pixel of a VAE's latent; zero without one.
        constraint: mean over tensors of -cos, in [-1, 1]; zero for the first batch.
        cosines: [L], detached; zero where undefined; with ``per_image`` the means over the images.
        defined: bool [L]; False where the gradient (with ``per_image``, any image's) or the reference is zero, so that there is no angle.
    """

    total: Tensor
    reconstruction: Tensor
    divergence: Tensor
    constraint: Tensor
    cosines: Tensor
    defined: Tensor


class GradientReference(nn.Module):
    """The mean of the gradients of past batches, one tensor for each constrained weight, kept in the state dict.

    Args:
        parameters: the weights by name.
        momentum: None for the plain mean of all past batches; else the share in [0, 1) that the past keeps at each batch (an
            exponential mean, without bias: the first batches weigh as in the plain mean).
    """

    count: Tensor

    def __init__(self, parameters: Mapping[str, Tensor], momentum: float | None = None) -> None:
        super().__init__()
        if not parameters:
            raise InputError("parameters: got none; wanted the weights whose gradients are constrained")
        if momentum is not None and not 0 <= momentum < 1:
            raise InputError(
                f"momentum: got {describe(momentum)}; wanted None or a share in [0, 1), e.g. 0.99"
            )
        self.names = tuple(parameters)
        self.momentum = momentum
        for name, p in parameters.items():
            self.register_buffer(_buffer(name), torch.zeros_like(p, dtype=wide(p.dtype)).detach())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def as_dict(self) -> dict[str, Tensor]:
        """The mean gradients by the parameters' names."""
        return {name: self.get_buffer(_buffer(name)) for name in self.names}

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor]) -> None:
        """Takes in one batch's gradients. Those that are not finite would stay for ever: such a batch is left out."""
        lengths = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients.values()])
        finite = lengths.isfinite().all()
        self.count += finite
        share = 1.0 / self.count.clamp_min(1).double()
        if self.momentum is not None:
            share = share.clamp_min(1 - self.momentum)
        for name, mean in self.as_dict().items():
            # A share of zero would not do: zero times infinity is not zero.
            g = torch.where(finite, gradients[name], 0).to(mean.dtype)
            mean.lerp_(g, (share * finite).to(mean.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {prefix + _buffer(n): self.get_buffer(_buffer(n)) for n in self.names}
        given = {k: v for k, v in state_dict.items() if k.startswith(prefix) and k != prefix + "count"}
        # None at all is a model's own state dict, for ``strict`` to judge.
        if given and {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
            raise InputError(
                f"reference: got {_listing(given, prefix)}; wanted {_listing(own, prefix)}: it is the reference of another model"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class GradConLoss(nn.Module):
    """The loss of GradCON for any encoder-decoder. Keep it beside the model, as a submodule of what is saved.

    ::

        criterion = GradConLoss(model)
        terms = criterion(x)          # runs the model
        terms.total.backward()
        optimizer.step()

    In train mode each ``backward`` takes the batch's gradients into the reference by itself (whatever the total was scaled with:
    gradient accumulation and loss scaling change nothing; a backward of several totals counts as one batch); in eval mode none
    does. It works under `torch.no_grad` and `torch.inference_mode` too (a validation step), and then gives values without a
    graph. Under several processes (DDP), each constrains the gradient of its own share of the batch.

    Args:
        model: maps images [B, C, H, W] to reconstructions, or to (reconstruction, mean, log variance). It is used, not owned: its
            parameters are not in this module's state dict.
        decoder: name, prefix or glob pattern of the decoder's parameters; its weight tensors are constrained.
        weight: of the constraint; the paper's 0.03. Zero: plain training that keeps a reference.
        momentum: see `GradientReference`.
        reference: whose gradients are averaged: the ``"total"`` loss's, or the ``"reconstruction"`` error's. ``"direction"``: the latter's, each
            batch's (with ``per_image`` each image's) scaled to length one, so that none weighs more than another; not the paper's.
        per_image: constrain the direction of each image's gradient, as the score looks at it, in place of the batch's. Not the paper's; a step
            takes 1.5 to 1.8 times as long with convolutions and linear maps, 2.4 to 2.8 times with decoders of other operations, for which
            `torch.func.vmap` forms the gradients of a batch's images.

    Raises:
        InputError: no decoder tensor selected, one that is frozen, or a number out of range.
        ModelError: at a call, where the model's output is not of its input's shape, or ``per_image`` with one that `torch.func.vmap` would have to map and cannot.
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: str = "decoder",
        *,
        weight: float = 0.03,
        momentum: float | None = None,
        reference: str = "total",
        per_image: bool = False,
    ) -> None:
        super().__init__()
        if weight < 0:
            raise InputError(f"weight: got {describe(weight)}; wanted zero or more, e.g. 0.03")
        if reference not in REFERENCES:
            wanted = ", ".join(f'"{name}"' for name in REFERENCES)
            raise InputError(f"reference: got {describe(reference)}; wanted one of {wanted}")
        weights = decoder_weights(model, decoder)
        frozen = [name for name, p in weights.items() if not p.requires_grad]
        if frozen:
            raise InputError(
                f"decoder: {', '.join(frozen)} do not want gradients; wanted weights that are trained"
            )
        self.weight, self.per_image = weight, per_image
        self.of_total, self.of_directions = reference == "total", reference == "direction"
        self.reference = GradientReference(weights, momentum)
        self._model = (model,)  # in a tuple, so that it is no submodule
        self._images = ImageGradients()
        self._capture: _Capture | None = None
        self._reached: frozenset[str] = frozenset()  # weights on which the last batch depends

    def extra_repr(self) -> str:
        kind = ", per_image=True" if self.per_image else ""
        return f"weight={self.weight}{kind}, tensors={', '.join(self.reference.names)}"

    def forward(self, x: Tensor) -> GradConTerms:
        """The loss of a batch [B, C, H, W]."""
        (model,) = self._model
        graph = torch.is_grad_enabled()
        if x.device.type == "cpu":
            keep_freed_memory()  # a step allocates twice what a plain one does; mapped anew, a twentieth of its time
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            # Before there is a reference there is no angle, of an image or of the batch; the images' directions begin one.
            begun = self.of_directions or int(self.reference.count) > 0
            if self.per_image and self.weight > 0 and begun:
                out, constraint, cosines, defined = self._constrain_images(x, graph)
                reconstruction = F.mse_loss(out.output, x)
            else:
                out = reconstruct(model, x)
                reconstruction = F.mse_loss(out.output, x)
                constraint, cosines, defined = self.constrain(reconstruction, graph=graph)
            divergences = out.divergences()
            divergence = reconstruction.new_zeros(())
            if divergences is not None:
                divergence = divergences.mean() * kl_weight(x)
            total = reconstruction + divergence + self.weight * constraint
        terms = GradConTerms(total, reconstruction, divergence, constraint, cosines, defined)
        if graph and self.training and self.of_total:
            self._watch(total)
        return terms if graph else GradConTerms(*(t.detach() for t in terms))

    def constrain(self, loss: Tensor, *, graph: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """The constraint on the gradients of any differentiable scalar: its value, the cosines [L], and which are defined [L].

        ``graph``: whether the value can be differentiated in turn. One backward through the decoder here, kept for the one
        double backward that the caller's ``total.backward()`` makes.
        """
        weights = self._weights()
        learn = graph and self.training and not self.of_total
        graph = graph and self.weight > 0 and int(self.reference.count) > 0
        gotten = torch.autograd.grad(
            loss, list(weights.values()), create_graph=graph, retain_graph=True, allow_unused=True
        )
        self._reached = frozenset(name for name, g in zip(weights, gotten, strict=True) if g is not None)
        gradients = {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(weights.items(), gotten, strict=True)
        }
        pairs = [_cosine(g, self.reference.as_dict()[name]) for name, g in gradients.items()]
        cosines = torch.stack([c for c, _ in pairs])
        defined = torch.stack([d for _, d in pairs])
        if learn:
            found = {name: g.detach() for name, g in gradients.items()}
            if self.of_directions:
                found = {name: directions(g.unsqueeze(0))[0] for name, g in found.items()}
            self.reference.update(found)
        return -cosines.mean(), cosines.detach(), defined

    def _constrain_images(self, x: Tensor, graph: bool) -> tuple[Reconstruction, Tensor, Tensor, Tensor]:
        """The reconstructions, the constraint on each image's gradient, the mean cosines [L], and which are defined for all images [L]."""
        mean: Mean = None
        if graph and self.training and not self.of_total:
            mean = "direction" if self.of_directions else "gradient"
        found = self._images.angles(
            self._model[0], x, self._weights(), self.reference.as_dict(), graph=graph, mean=mean
        )
        self._reached = self._images.reached
        if found.means is not None:
            self.reference.update(found.means)
        cosines = found.cosines.mean(0)
        return found.out, -cosines.mean(), cosines.detach(), found.defined.all(0)

    def _watch(self, total: Tensor) -> None:
        """Takes the gradients that the backward of ``total`` brings to the weights into the reference."""
        weights = self._weights()
        if self._capture is None or not self._capture.is_of(weights):
            self._capture = _Capture(weights, self.reference)
        self._capture.watch(total, self._reached)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_capture": None}  # hooks cannot be copied

    def _weights(self) -> dict[str, nn.Parameter]:
        parameters = dict(self._model[0].named_parameters())
        return {name: parameters[name] for name in self.reference.names}


class _Capture:
    """Hooks that collect the gradients of a backward, free of the scale that it was started with.

    Several totals may wait for theirs, each or all in one: of several it is their mean, each weighed by its scale.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], reference: GradientReference) -> None:
        self._all, self._reference = weights, reference
        self._handles: dict[str, RemovableHandle] = {}
        self._waiting = 0
        self._reset()

    def is_of(self, weights: Mapping[str, nn.Parameter]) -> bool:
        return all(self._all[name] is p for name, p in weights.items())

    def watch(self, total: Tensor, reached: frozenset[str]) -> None:
        """Awaits a backward of ``total``; it brings gradients to the weights named in ``reached``, to the others zero."""
        self._reset()  # of a backward that was broken off
        self._waiting += 1
        handle: RemovableHandle = total.register_hook(lambda scale: self._start(scale, reached, handle))
        for name in reached - self._handles.keys():
            self._handles[name] = self._all[name].register_hook(partial(self._take, name))

    def _reset(self) -> None:
        self._scale: Tensor | None = None
        self._reached: frozenset[str] = frozenset()
        self._found: dict[str, Tensor] = {}

    def _start(self, scale: Tensor, reached: frozenset[str], handle: RemovableHandle) -> None:
        handle.remove()
        self._waiting -= 1
        self._scale = scale.detach() if self._scale is None else self._scale + scale.detach()
        self._reached |= reached

    def _take(self, name: str, gradient: Tensor) -> None:
        if self._scale is None:  # the backward of another loss
            return
        self._found[name] = gradient.detach().clone()
        if not self._reached <= self._found.keys():
            return
        self._reference.update(
            {
                n: self._found[n] / self._scale if n in self._found else torch.zeros_like(p)
                for n, p in self._all.items()
            }
        )
        self._reset()
        if not self._waiting:
            for handle in self._handles.values():
                handle.remove()
            self._handles.clear()


def _cosine(g: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """cos(g, r), and whether it is defined; zero where not. Lengths are taken in float64, so that no square under- or overflows."""
    g, r = g.to(r.dtype).flatten(), r.detach().flatten()
    past = torch.linalg.vector_norm(r, dtype=torch.float64)
    length = torch.linalg.vector_norm(g, dtype=torch.float64)
    defined = (length.detach() > 0) & (past > 0)
    unit = r / torch.where(past > 0, past, 1)
    cosine = torch.dot(g, unit).double() / torch.where(defined, length, 1)
    return torch.where(defined, cosine, 0).to(g.dtype), defined


def _buffer(name: str) -> str:
    """A parameter's name as the name of a buffer, in which a dot is not allowed."""
    return name.replace(".", "/")


def _listing(tensors: Mapping[str, Tensor], prefix: str) -> str:
    return (
        ", ".join(f"{k.removeprefix(prefix).replace('/', '.')} {list(v.shape)}" for k, v in tensors.items())
        or "none"
    )
