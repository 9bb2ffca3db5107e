"""How an emulated result is compared with float64."""

from __future__ import annotations

import torch
from torch import Tensor

# The sums are in float32 whatever the operands are; bf16 and fp16 products are exact in it.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 2e-5, torch.float16: 2e-5}
TF32_TOLERANCE = 4e-3


def assert_close(actual: Tensor, truth: Tensor, tolerance: float, scale: Tensor | None = None) -> None:
    """Asserts ``|actual - truth| <= tolerance * scale``.

    `scale` is by default the truth plus 1e-4 of its largest; for inner products, which may cancel, pass the product of
    the norms.
    """
    assert actual.shape == truth.shape, f"{tuple(actual.shape)} instead of {tuple(truth.shape)}"
    if not truth.numel():
        return
    scale = truth.abs() + 1e-4 * truth.abs().max() if scale is None else scale
    error = ((actual.double() - truth).abs() / scale.clamp_min(1e-30)).nan_to_num(
        nan=torch.inf, posinf=torch.inf
    )
    assert error.max() <= tolerance, f"relative error {error.max().item():.2e}, wanted {tolerance:.0e}"


def gram_scale(gram: Tensor) -> Tensor:
    """The product of the norms that each entry of [B, C, C] pairs."""
    norms = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    return norms[:, :, None] * norms[:, None, :]
