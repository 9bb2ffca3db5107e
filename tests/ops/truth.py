"""The gradients that the operators take norms and products of, by plain autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _gradients(g: Tensor, samples: int, parameter: Tensor, layer: Callable[[int, Tensor], Tensor]) -> Tensor:
    """[C, B, *parameter]: one backward for each row and sample of `layer(sample, parameter)`."""
    images = g.shape[1] // samples if samples else 0
    parameter = parameter.double().cpu().requires_grad_()
    grads = torch.zeros(g.shape[0], samples, *parameter.shape, dtype=torch.float64)
    for b in range(samples):
        cotangents = g[:, b * images : (b + 1) * images].double().cpu()
        y = layer(b, parameter)
        for c in range(g.shape[0]):
            (grads[c, b],) = torch.autograd.grad(y, parameter, cotangents[c], retain_graph=True)
    return grads


def linear(x: Tensor, g: Tensor) -> Tensor:
    x = x.double().cpu()
    weight = torch.zeros(g.shape[3], x.shape[2])
    return _gradients(g, x.shape[0], weight, lambda b, w: F.linear(x[b : b + 1], w))


def conv(
    x: Tensor,
    g: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
) -> Tensor:
    x = x.double().cpu()
    cin, cout, dims = x.shape[1], g.shape[2], len(kernel_size)

    def layer(b: int, w: Tensor) -> Tensor:
        image = x[b * frames : (b + 1) * frames]
        if not transposed:
            return _CONV[dims](image, w, None, stride, padding, dilation, groups)
        shortest = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(x.shape[2:], stride, padding, dilation, kernel_size, strict=True)
        ]
        extra = [n - m for n, m in zip(g.shape[3:], shortest, strict=True)]
        return _CONV_TRANSPOSE[dims](image, w, None, stride, padding, extra, groups, dilation)

    shape = (cin, cout // groups) if transposed else (cout, cin // groups)
    return _gradients(g, x.shape[0] // frames, torch.zeros(*shape, *kernel_size), layer)


def bias(g: Tensor) -> Tensor:
    def layer(b: int, w: Tensor) -> Tensor:
        return w.view(1, -1, *[1] * (g.dim() - 3)).expand(1, *g.shape[2:]) * 1

    return _gradients(g, g.shape[1], torch.zeros(g.shape[2]), layer)


def affine(xhat: Tensor, g: Tensor) -> Tensor:
    xhat = xhat.double().cpu()

    def layer(b: int, w: Tensor) -> Tensor:
        return xhat[b : b + 1] * w.view(1, -1, *[1] * (xhat.dim() - 2))

    return _gradients(g, g.shape[1], torch.zeros(g.shape[2]), layer)


def embedding(indices: Tensor, g: Tensor, padding_idx: int = -1) -> Tensor:
    indices = indices.cpu()
    table = torch.zeros(int(indices.max()) + 2 if indices.numel() else 1, g.shape[3])
    padding = padding_idx if 0 <= padding_idx < len(table) else None
    return _gradients(g, g.shape[1], table, lambda b, w: F.embedding(indices[b : b + 1], w, padding))


def sqnorm(grads: Tensor) -> Tensor:
    """[B, C] from gradients [C, B, *]."""
    return (
        grads.flatten(2).square().sum(-1).T
        if grads.numel()
        else grads.new_zeros(grads.shape[1], grads.shape[0])
    )


def dot(grads: Tensor, ref: Tensor) -> Tensor:
    """[B, C] from gradients [C, B, *] and a reference gradient."""
    return (grads * ref.double().cpu()).flatten(2).sum(-1).T if grads.numel() else sqnorm(grads)


def gram(grads: Tensor) -> Tensor:
    """[B, C, C] from gradients [C, B, *]."""
    if not grads.numel():
        return grads.new_zeros(grads.shape[1], grads.shape[0], grads.shape[0])
    flat = grads.flatten(2).transpose(0, 1)
    return flat @ flat.transpose(1, 2)


FAMILIES: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "conv": conv,
    "bias": bias,
    "affine": affine,
    "embedding": embedding,
}
