"""How results are compared with the truth."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(
    actual: Tensor,
    truth: Tensor,
    layers: tuple[str, ...],
    tolerance: float,
    scale: Tensor | None = None,
    noise: float = 1e-9,
) -> None:
    """Asserts ``|actual - truth| <= tolerance (scale + 1e-4 of that layer's largest)``.

    All are [B, C, L]; the scale is ``|truth|`` unless given. A gradient that is zero in exact arithmetic (a key's
    bias under softmax, a bias before GroupNorm) is rounding noise in both, so ``noise`` times the largest value of
    all layers is let pass, too.
    """
    assert actual.shape == truth.shape, f"{tuple(actual.shape)} instead of {tuple(truth.shape)}"
    truth = truth.double()
    scale = truth.abs() if scale is None else scale.double()
    largest = scale.amax((0, 1), keepdim=True)
    scale = scale + 1e-4 * largest + noise * largest.max()
    off = (actual.double() - truth).abs()
    # 0 / 0: all layers' gradients are zero, in both.
    error = torch.where(off == 0, 0.0, off / scale).nan_to_num(nan=torch.inf, posinf=torch.inf)
    worst = error.amax((0, 1))
    bad = [
        f"{name}: relative error {worst[i]:.2e}, ratio {(actual[..., i].sum() / truth[..., i].sum()).item():.6g}"
        for i, name in enumerate(layers)
        if not worst[i] <= tolerance
    ]
    assert not bad, f"above {tolerance:.0e} in {len(bad)} of {len(layers)} layers:\n" + "\n".join(bad[:20])
