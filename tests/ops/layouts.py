"""Memory layouts that an operator must accept: the same values, differently laid out."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(t: Tensor, channel: int) -> Tensor:
    """The channel dimension last in memory."""
    return t.movedim(channel, -1).contiguous().movedim(-1, channel)


def sliced(t: Tensor) -> Tensor:
    """Every second element of a tensor twice as long in its last dimension."""
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype, device=t.device)
    wide[..., ::2] = t
    return wide[..., ::2]


def reversed_dims(t: Tensor) -> Tensor:
    """Memory order opposite to the order of the dimensions."""
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def narrowed(t: Tensor, channel: int) -> Tensor:
    """Channels in the middle of a channels-last tensor that has more of them."""
    padded = torch.full(
        (*t.shape[:channel], t.shape[channel] + 5, *t.shape[channel + 1 :]),
        float("nan"),
        dtype=t.dtype,
        device=t.device,
    )
    padded = channels_last(padded, channel)
    padded.narrow(channel, 2, t.shape[channel]).copy_(t)
    return padded.narrow(channel, 2, t.shape[channel])


LAYOUTS = ("contiguous", "channels_last", "narrowed", "sliced", "reversed")


def lay_out(t: Tensor, layout: str, channel: int) -> Tensor:
    """`t` in one of LAYOUTS; `channel` is the dimension that holds the channels."""
    if layout == "channels_last":
        return channels_last(t, channel)
    if layout == "narrowed":
        return narrowed(t, channel)
    if layout == "sliced":
        return sliced(t)
    if layout == "reversed":
        return reversed_dims(t)
    return t.contiguous()
