"""Semantic adversarial images: the hue and the saturation of the whole image shifted.

H. Hosseini and R. Poovendran, "Semantic Adversarial Examples", CVPR Workshops 2018: in HSV, all pixels' hue turned by one
random angle and their saturation shifted by one random number, whose range grows with the trials, until the model errs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gradfast.errors import InputError

__all__ = ["shift_hue_saturation"]


def shift_hue_saturation(
    model: nn.Module, images: Tensor, labels: Tensor, trials: int, seed: int, index: Tensor
) -> Tensor:
    """The first of each image's random shifts that the model gets wrong; the image itself where none does.

    Args:
        model: pixels in [0, 1] to logits, in eval mode.
        images: float32 [n, 3, H, W] in [0, 1].
        labels: int64 [n].
        trials: at most; at trial t of T the saturation's shift is drawn from [-t/T, t/T], the hue's from a full turn.
        seed: with ``index``, of the shifts.
        index: int64 [n].

    Returns:
        float32 [n, 3, H, W].

    Raises:
        InputError: no kornia.
    """
    try:
        from kornia.color import hsv_to_rgb, rgb_to_hsv
    except ImportError as error:
        raise InputError(
            f"semantic: needs kornia, which cannot be imported ({error}): pip install kornia"
        ) from error
    device = images.device
    shifts = torch.stack([_shifts(trials, seed, i) for i in index.tolist()]).to(device)
    hsv = rgb_to_hsv(images)
    out = images.clone()
    left = torch.arange(len(images), device=device)
    for trial in range(trials):
        hue, saturation, value = hsv[left].unbind(1)
        turn, change = shifts[left, trial].view(-1, 2, 1, 1).unbind(1)
        hue = (hue + 2 * torch.pi * turn) % (2 * torch.pi)
        shifted = torch.stack((hue, (saturation + change).clamp(0, 1), value), 1)
        tried = hsv_to_rgb(shifted).clamp(0, 1)
        with torch.no_grad():
            wrong = model(tried).argmax(1) != labels[left]
        out[left[wrong]] = tried[wrong]
        left = left[~wrong]
        if not len(left):
            break
    return out


def _shifts(trials: int, seed: int, index: int) -> Tensor:
    """[trials, 2]: turns of the hue in [0, 1), shifts of the saturation."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    drawn = torch.from_numpy(generator.random((trials, 2), dtype=np.float32))
    reach = torch.arange(trials) / trials
    return torch.stack((drawn[:, 0], (2 * drawn[:, 1] - 1) * reach), 1)
