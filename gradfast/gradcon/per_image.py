"""Every image's own gradient, differentiable: what a constraint on each image, in place of the batch, is made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradfast.errors import ModelError
from gradfast.gradcon.autoencoders import Reconstruction, as_reconstruction, reconstruct
from gradfast.gradcon.factors import Factors, factors_of, wide
from gradfast.record import Graph, trace

__all__ = ["ImageAngles", "ImageGradients", "Mean", "directions", "image_cosines", "image_gradients"]

# What is averaged over a batch's images: their gradients, those scaled to length one, or nothing.
Mean = Literal["gradient", "direction"] | None

# Of a gradient's length, between factors and autograd. On a GPU convolutions of float32 may round as TF32.
_NEAR = {torch.float64: 1e-8, torch.float32: 1e-4}
_NEAR_OTHERWISE = 2e-2


class ImageAngles(NamedTuple):
    """Of images [B, ...]: reconstructions, cosines to the reference [B, L], which are defined [B, L], and the means by weight, where they
    were asked for.
    """

    out: Reconstruction
    cosines: Tensor
    defined: Tensor
    means: dict[str, Tensor] | None

    @classmethod
    def of(
        cls, out: Reconstruction, pairs: list[tuple[Tensor, Tensor]], means: dict[str, Tensor] | None
    ) -> ImageAngles:
        """From the cosines and what is defined of each weight, [B] each."""
        cosines, defined = (torch.stack(columns, 1) for columns in zip(*pairs, strict=True))
        return cls(out, cosines, defined, means)


class _Asked(NamedTuple):
    """A call of `ImageGradients.angles`."""

    model: nn.Module
    x: Tensor
    weights: Mapping[str, Tensor]
    reference: Mapping[str, Tensor]
    graph: bool
    mean: Mean


class ImageGradients:
    """The angles of the images of batches of one model, from `Factors` where its operations are known, else from `torch.func.vmap`.

    Which of the two is told by the first batch, and by one whose graph differs from those before: there the factors' gradients of two
    images are compared with autograd's, and the error of one must not depend on the rows of others.
    """

    def __init__(self) -> None:
        self._checked: set[Hashable] = set()
        self._mapped = False  # by vmap, from now on
        # Weights on which the last batch depends.
        self.reached: frozenset[str] = frozenset()

    def angles(
        self,
        model: nn.Module,
        x: Tensor,
        weights: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
        *,
        graph: bool,
        mean: Mean = None,
    ) -> ImageAngles:
        """Differentiable with ``graph``.

        Raises:
            ModelError: a model that neither way serves, such as one with BatchNorm in train mode.
        """
        asked = _Asked(model, x, weights, reference, graph, mean)
        if not self._mapped:
            drawn = _random_states(x)
            with torch.enable_grad():
                found = self._from_factors(asked)
            if found is not None:
                return found
            self._mapped = True
            _put_back(x, drawn)
        return self._from_map(asked)

    def _from_factors(self, asked: _Asked) -> ImageAngles | None:
        model, x, weights, reference, create_graph, mean = asked
        out = reconstruct(model, x)
        errors = out.errors(x)
        if errors.grad_fn is None:
            return None
        graph = trace(errors, dict(model.named_parameters()), (), weights)
        factors = factors_of(graph, errors, weights, create_graph=create_graph)
        if not factors or not self._holds(graph, errors, weights, factors):
            return None
        self.reached = frozenset(factors)
        found = {name: f.cosines(reference[name]) for name, f in factors.items()}
        idle = errors.new_zeros(len(errors)), torch.zeros_like(errors, dtype=torch.bool)
        means = None
        if mean is not None:
            means = {name: torch.zeros_like(w) for name, w in weights.items()}
            for name, f in factors.items():
                means[name] = f.mean() if mean == "gradient" else f.mean_direction(found[name][2])
        return ImageAngles.of(out, [found[n][:2] if n in found else idle for n in weights], means)

    def _holds(
        self, graph: Graph, errors: Tensor, weights: Mapping[str, Tensor], factors: Mapping[str, Factors]
    ) -> bool:
        """Whether the factors give the gradients of the first and the last image."""
        kind = tuple(
            (n.name, n.parameter, tuple(e and (e[0].order, e[1]) for e in n.edges)) for n in graph.nodes
        )
        if kind in self._checked:
            return True
        if any(_normalises_batch(node.fn) for node in graph.nodes):
            return False
        near = _NEAR_OTHERWISE if errors.is_cuda else _NEAR.get(errors.dtype, _NEAR_OTHERWISE)
        outputs = [f.output for f in factors.values()]
        told = False  # gradients of zero, or none that are finite, say nothing
        for image in {0, len(errors) - 1}:
            if not bool(errors[image].isfinite()):
                continue
            rows = torch.autograd.grad(errors[image], outputs, retain_graph=True)
            if any(bool(r[:image].any() | r[image + 1 :].any()) for r in rows):
                return False
            own = torch.autograd.grad(errors[image], [weights[name] for name in factors], retain_graph=True)
            for f, g in zip(factors.values(), own, strict=True):
                length = torch.linalg.vector_norm(g, dtype=torch.float64)
                if not bool(torch.linalg.vector_norm(f.of_image(image) - g) <= near * length):
                    return False
                told |= bool(length > 0)
        if told:
            self._checked.add(kind)
        return True

    def _from_map(self, asked: _Asked) -> ImageAngles:
        model, x, weights, reference, graph, mean = asked
        with torch.set_grad_enabled(graph):
            out, gradients = image_gradients(model, x, weights)
        if graph and not self.reached:
            found = torch.autograd.grad(
                out.output.sum(), list(weights.values()), retain_graph=True, allow_unused=True
            )
            self.reached = frozenset(n for n, g in zip(weights, found, strict=True) if g is not None)
        pairs = [image_cosines(gradients[name], reference[name]) for name in weights]
        return ImageAngles.of(out, pairs, _means_of_formed(mean, gradients))


def _means_of_formed(mean: Mean, gradients: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    if mean is None:
        return None
    return {
        name: (g.detach() if mean == "gradient" else directions(g.detach())).mean(0)
        for name, g in gradients.items()
    }


def directions(gradients: Tensor) -> Tensor:
    """Each of [B, *shape] scaled to length one, float32 at least; zero stays zero. Lengths are taken in float64, as for cosines."""
    g = gradients.flatten(1).to(wide(gradients.dtype))
    lengths = torch.linalg.vector_norm(g, dim=1, keepdim=True, dtype=torch.float64)
    return (g / torch.where(lengths > 0, lengths, 1)).to(g.dtype).view_as(gradients)


def image_gradients(
    model: nn.Module, x: Tensor, weights: Mapping[str, Tensor]
) -> tuple[Reconstruction, dict[str, Tensor]]:
    """The reconstructions of images [B, ...], and the gradients of each one's mean squared error, [B, *shape] by weight.

    It forms the gradients: B times ``weights`` in memory.

    Raises:
        ModelError: a model that `torch.func.vmap` cannot map over its images, such as one with BatchNorm in train mode.
    """

    def error(held: Mapping[str, Tensor], image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        one = image.unsqueeze(0)
        out = as_reconstruction(functional_call(model, dict(held), (one,)), one, model)
        return out.errors(one)[0], tuple(part[0] for part in out if part is not None)

    mapped = vmap(grad(error, has_aux=True), in_dims=(None, 0), randomness="different")
    try:
        gradients, parts = mapped(dict(weights), x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as reason:
        raise ModelError(
            f"model: {type(model).__name__} cannot be mapped over its images by torch.func.vmap, as a constraint on each of them wants: {reason}"
        ) from reason
    return Reconstruction(*parts), gradients


def image_cosines(gradients: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of each of [B, *shape] with a reference, [B], and whether it is defined; zero where not.

    Lengths are taken in float64, so that no square under- or overflows. (A batch's cosine is `constraint`'s own: one dot product.)
    """
    r = reference.detach().flatten()
    g = gradients.flatten(1).to(r.dtype)
    past = torch.linalg.vector_norm(r, dtype=torch.float64)
    lengths = torch.linalg.vector_norm(g, dim=1, dtype=torch.float64)
    defined = (lengths.detach() > 0) & (past > 0)
    unit = r / torch.where(past > 0, past, 1)
    cosines = (g @ unit).double() / torch.where(defined, lengths, 1)
    return torch.where(defined, cosines, 0).to(g.dtype), defined


def _normalises_batch(fn: object) -> bool:
    """Whether a node of autograd's takes its statistics from the batch, maybe before the decoder, where the comparison does not look."""
    return "BatchNorm" in type(fn).__name__ and bool(getattr(fn, "_saved_training", True))


def _random_states(x: Tensor) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None


def _put_back(x: Tensor, states: tuple[Tensor, Tensor | None]) -> None:
    """What a model drew in vain is drawn again: a training that is taken up has its first batch elsewhere."""
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], x.device)
