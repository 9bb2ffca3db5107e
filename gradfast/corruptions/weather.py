"""What is between the camera and the scene: snow and haze."""

from __future__ import annotations

import torch
from torch import Tensor

from .draws import Draws
from .filters import pixels, streak

__all__ = ["haze", "snow"]

_FALL = 3.0  # length of a flake's streak, in pixels of a 32-pixel image
_SPREAD = 45.0  # degrees to either side of the vertical
_WHITENING = 0.4  # of the whole image, per share of flakes
_AIRLIGHT = 0.85
_FAR = 0.35  # depth at the image's edge nearest to the vanishing point's opposite, of that at the vanishing point


def snow(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Flakes on a share of the pixels, streaked by the wind, and a paler scene; at a higher share, flakes are added."""
    height, width = x.shape[-2:]
    drawn = draws.uniform(height * width + 1)
    field, wind = drawn[:, 1:].view(-1, 1, height, width), drawn[:, 0]
    flakes = (field < share).to(x)
    layer = streak(flakes, pixels(x, _FALL), 90 + _SPREAD * (2 * wind - 1))
    pale = x + _WHITENING * share * (1 - x)
    return pale + layer * (1 - pale)


def haze(x: Tensor, optical_depth: float, draws: Draws) -> Tensor:
    """Koschmieder's law, x t + A (1 - t) with t = exp(-optical depth * distance).

    The distance is 1 at a random vanishing point in the upper middle and falls off towards the edges.
    """
    height, width = x.shape[-2:]
    place = draws.uniform(2)
    top, left = (0.2 + 0.3 * place[:, 0]).view(-1, 1, 1), (0.3 + 0.4 * place[:, 1]).view(-1, 1, 1)
    rows = (torch.arange(height) + 0.5).view(1, -1, 1) / height
    columns = (torch.arange(width) + 0.5).view(1, 1, -1) / width
    radius = ((rows - top) ** 2 + (columns - left) ** 2).sqrt()
    distance = (1 - (1 - _FAR) * radius.clamp(max=1)).unsqueeze(1)
    through = torch.exp(-optical_depth * distance)
    return x * through + _AIRLIGHT * (1 - through)
