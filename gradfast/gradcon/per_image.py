"""Every image's own gradient, differentiable: what a constraint on each image, in place of the batch, is made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradfast.errors import ModelError
from gradfast.gradcon.autoencoders import Reconstruction, as_reconstruction

__all__ = ["image_cosines", "image_gradients"]


def image_gradients(
    model: nn.Module, x: Tensor, weights: Mapping[str, Tensor]
) -> tuple[Reconstruction, dict[str, Tensor]]:
    """The reconstructions of images [B, ...], and the gradients of each one's mean squared error, [B, *shape] by weight.

    Unlike `gradfast.grad_norms` it forms the gradients, for the derivative of the constraint needs them: B times ``weights`` in memory.

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
