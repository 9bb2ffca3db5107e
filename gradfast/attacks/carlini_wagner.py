"""Carlini and Wagner's L2 attack, with the search for the constant that the paper asks for, image by image.

N. Carlini and D. Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, sections V.B and VI.A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["carlini_wagner"]

_INSIDE = 0.999999  # keeps atanh of black and white finite
_CHECKS = 10  # times per search that an image's loss is looked at, and what it must have fallen to, as in the authors' code
_PROGRESS = 0.9999
_GROWTH = 10.0  # of a constant that never fooled


def carlini_wagner(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    c: float,
    kappa: float,
    searches: int,
    steps: int,
    lr: float,
) -> Tensor:
    """The nearest of the images that each search found to fool the model; the image itself where none did.

    Minimizes ``||x' - x||^2 + c max(0, z_y - max_{i != y} z_i + kappa)`` by Adam over w with ``x' = (tanh(w) + 1) / 2``,
    so that x' stays in [0, 1]. Each search starts at the image; c is halved towards the largest constant that failed
    where the last search succeeded, and grows tenfold until one does. An image whose loss has stopped falling is left.

    Args:
        model: pixels in [0, 1] to logits [B, K], K at least 2, in eval mode.
        images: float32 [B, C, H, W] in [0, 1].
        labels: int64 [B].
        c: the first constant.
        kappa: logits that another class must be ahead by.
        searches: constants tried.
        steps: of Adam, at most, for each.
        lr: of Adam.

    Returns:
        float32 [B, C, H, W].
    """
    start = torch.atanh((2 * images - 1) * _INSIDE)
    nearest = torch.full((len(images),), torch.inf, device=images.device)
    best = images.clone()
    constant, low = torch.full_like(nearest, c), torch.zeros_like(nearest)
    high = torch.full_like(nearest, torch.inf)
    for _ in range(searches):
        fooled = _minimize(model, start, images, labels, constant, kappa, steps, lr, nearest, best)
        high = torch.where(fooled, constant, high)
        low = torch.where(fooled, low, constant)
        constant = torch.where(high.isinf(), constant * _GROWTH, (low + high) / 2)
    return best


def _minimize(
    model: nn.Module,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    constant: Tensor,
    kappa: float,
    steps: int,
    lr: float,
    nearest: Tensor,
    best: Tensor,
) -> Tensor:
    """One search; keeps what is nearer than `nearest` in `best`. Returns bool [B]: whether any step fooled the model."""
    fooled = torch.zeros_like(labels, dtype=torch.bool)
    rows = torch.arange(len(images), device=images.device)
    w, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    last = torch.full_like(constant, torch.inf)
    every = max(1, steps // _CHECKS)
    for step in range(1, steps + 1):
        w.requires_grad_()
        x = (torch.tanh(w) + 1) / 2
        logits = model(x)
        right = logits.gather(1, labels[rows, None])[:, 0]
        other = logits.scatter(1, labels[rows, None], -torch.inf).amax(1)
        distance = (x - images[rows]).square().flatten(1).sum(1)
        loss = distance + constant[rows] * (right - other + kappa).clamp(min=0)
        (gradient,) = torch.autograd.grad(loss.sum(), w)
        with torch.no_grad():
            ahead = other - right > kappa
            fooled[rows[ahead]] = True
            nearer = ahead & (distance < nearest[rows])
            nearest[rows[nearer]] = distance[nearer]
            best[rows[nearer]] = x[nearer]
            # Adam by hand: an image's moments leave with it.
            mean.lerp_(gradient, 0.1)
            square.lerp_(gradient.square(), 0.001)
            rate = lr * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            w = w.detach() - rate * mean / (square.sqrt() + 1e-8)
            if step % every == 0:
                going = loss <= _PROGRESS * last[rows]
                last[rows] = loss
                if not bool(going.any()):
                    break
                if not bool(going.all()):
                    rows, w, mean, square = rows[going], w[going], mean[going], square[going]
    return fooled
