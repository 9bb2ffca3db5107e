"""How close an operator must come to the truth, and the dtypes that are tested."""

from __future__ import annotations

import torch
import truth
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def assert_close(got: Tensor, want: Tensor, operands: torch.dtype, scale: Tensor | None = None) -> None:
    """Checks shape, dtype and values against float64 results for the same, already rounded, operands.

    Args:
        got: result of an operator.
        want: the truth.
        operands: dtype of the operator's operands.
        scale: what the error is relative to, beside a hundredth of the largest (where summands cancel, float32 loses
            digits); `want` unless given.
    """
    assert got.shape == want.shape
    assert got.dtype == (torch.float64 if operands == torch.float64 else torch.float32)
    if want.numel() == 0:
        return
    tolerance = 1e-12 if operands == torch.float64 else 1e-5
    scale = want.abs() if scale is None else scale
    relative_to = scale + 0.01 * scale.max() + torch.finfo(torch.float32).tiny
    error = float(((got.double().cpu() - want).abs() / relative_to).max())
    assert error < tolerance, f"relative error {error:.1e}, allowed {tolerance:.0e}"


def assert_dot_close(got: Tensor, grads: Tensor, ref: Tensor, operands: torch.dtype) -> None:
    """`got` [B, C] against the inner products of gradients [C, B, *] with `ref`, relative to the norms of both."""
    norms = truth.sqnorm(grads).sqrt() * ref.double().cpu().norm()
    assert_close(got, truth.dot(grads, ref), operands, norms)


def assert_gram_close(got: Tensor, grads: Tensor, operands: torch.dtype) -> None:
    """`got` [B, C, C] against the inner products of gradients [C, B, *], relative to the norms of both."""
    norms = truth.sqnorm(grads).sqrt()
    assert_close(got, truth.gram(grads), operands, norms.unsqueeze(1) * norms.unsqueeze(2))
