"""The operators: one documented function for each of `torch.ops.gradfast`, and their fake kernels.

Throughout, C rows (contrast classes) come first in a cotangent `g`, then B samples; T are the positions that share a
parameter. Operands are float32, float64, bfloat16 or float16, alike in dtype and device, in any memory format.
Results are float64 for float64 operands and float32 for all others; sums are taken in the result's dtype.
Empty inputs give zeros. No operator stores the gradients of a batch: it needs scratch for one tile, or for one
sample's [T, T] Gram matrix, per thread; on CUDA, depthwise convolutions need it for the gradients of the samples that fill
24 MB, one at least.

Every function raises `ValueError` for a wrong shape or option and `TypeError` for a wrong dtype, of fake and meta tensors, too. None has a
derivative: a backward pass through one raises `RuntimeError`.
Sources: Goodfellow, "Efficient Per-Example Gradient Computations" (arXiv:1510.01799) for the rank-one form; Rochette et
al. (arXiv:1912.06015) for convolutions; Li et al., "Large Language Models Can Be Strong Differentially Private
Learners" (arXiv:2110.05679, section 4) for the Gram form ("ghost" norms), here shared by all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from . import _extension, ops_checks
from .ops_backward import conv3x3_backward, conv_input_grad, has_conv3x3_backward, has_conv_input_grad

__all__ = [
    "affine_dot",
    "affine_gram",
    "affine_sqnorm",
    "bias_dot",
    "bias_gram",
    "bias_sqnorm",
    "conv3x3_backward",
    "conv_dot",
    "conv_gram",
    "conv_input_grad",
    "conv_sqnorm",
    "conv_sqnorm_dot",
    "embedding_dot",
    "embedding_gram",
    "embedding_sqnorm",
    "gate_backward",
    "has_conv3x3_backward",
    "has_conv_input_grad",
    "linear_dot",
    "linear_gram",
    "linear_sqnorm",
    "linear_sqnorm_dot",
]

_extension.check(name for name in __all__ if not name.startswith("has_"))
_ops = torch.ops.gradfast


def linear_sqnorm(x: Tensor, g: Tensor, form: str = "auto") -> Tensor:
    """Squared norms of a linear layer's weight gradients, `||sum_t g[c, b, t] x[b, t]'||^2`.

    Args:
        x: inputs of the layer [B, T, D].
        g: cotangents of its output [C, B, T, O].
        form: "auto" takes the fewest flops; "direct" forms tiles of the gradient; "gram" takes
            `<X X', G G'>` with `X X'` shared by all rows; "rank_one" needs T = 1.

    Returns:
        [B, C], at least 0.
    """
    return cast(Tensor, _ops.linear_sqnorm(x, g, form))


def linear_dot(x: Tensor, g: Tensor, ref: Tensor) -> Tensor:
    """Inner products of a linear layer's weight gradients with a reference gradient.

    Args:
        x: inputs of the layer [B, T, D].
        g: cotangents of its output [C, B, T, O].
        ref: reference [O, D].

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.linear_dot(x, g, ref))


def linear_sqnorm_dot(x: Tensor, g: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """`linear_sqnorm` and `linear_dot` at once: what a cosine is made of.

    On the CPU the dot products come from the tiles of the gradient that the direct form squares; where another form is cheaper, and on CUDA,
    this is one after the other.

    Args:
        x: inputs of the layer [B, T, D].
        g: cotangents of its output [C, B, T, O].
        ref: reference [O, D].

    Returns:
        Squared norms [B, C], at least 0, and dot products [B, C].
    """
    return cast(tuple[Tensor, Tensor], _ops.linear_sqnorm_dot(x, g, ref))


def linear_gram(x: Tensor, g: Tensor) -> Tensor:
    """Inner products of a linear layer's weight gradients across the rows of one sample.

    Args:
        x: inputs of the layer [B, T, D].
        g: cotangents of its output [C, B, T, O].

    Returns:
        [B, C, C]; the diagonal is `linear_sqnorm`.
    """
    return cast(Tensor, _ops.linear_gram(x, g))


def conv_sqnorm(
    x: Tensor,
    g: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
    form: str = "auto",
) -> Tensor:
    """Squared norms of a convolution's weight gradients, in 1 to 3 spatial dimensions.

    Args:
        x: inputs [B * frames, Cin, *in].
        g: cotangents of the output [C, B * frames, Cout, *out].
        kernel_size: one entry for each spatial dimension.
        stride: likewise.
        padding: likewise, zeros on both sides.
        dilation: likewise.
        groups: as in `torch.nn.functional.conv2d`.
        transposed: the layer is `conv_transpose`; its output padding follows from the extent of g.
        frames: this many consecutive images are one sample: their gradients are summed.
        form: "auto" takes the fewest flops; "direct" forms tiles of the gradient; "gram" takes `<X X', G G'>` with
            X the unfolded input and `X X'` shared by all rows; "pixel_gram" is the same with `X X'` summed from the
            Gram matrix of the pixels (stride 1 only).

    Returns:
        [B, C], at least 0.
    """
    return cast(
        Tensor,
        _ops.conv_sqnorm(x, g, kernel_size, stride, padding, dilation, groups, transposed, frames, form),
    )


def conv_dot(
    x: Tensor,
    g: Tensor,
    ref: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
) -> Tensor:
    """Inner products of a convolution's weight gradients with a reference gradient.

    Args:
        x: inputs [B * frames, Cin, *in].
        g: cotangents of the output [C, B * frames, Cout, *out].
        ref: reference of the weight's shape, [Cout, Cin / groups, *kernel_size], or
            [Cin, Cout / groups, *kernel_size] when `transposed`.
        kernel_size: one entry for each spatial dimension.
        stride: likewise.
        padding: likewise, zeros on both sides.
        dilation: likewise.
        groups: as in `torch.nn.functional.conv2d`.
        transposed: the layer is `conv_transpose`; its output padding follows from the extent of g.
        frames: this many consecutive images are one sample: their gradients are summed.

    Returns:
        [B, C].
    """
    return cast(
        Tensor, _ops.conv_dot(x, g, ref, kernel_size, stride, padding, dilation, groups, transposed, frames)
    )


def conv_sqnorm_dot(
    x: Tensor,
    g: Tensor,
    ref: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
) -> tuple[Tensor, Tensor]:
    """`conv_sqnorm` and `conv_dot` at once: what a cosine is made of. See `linear_sqnorm_dot`.

    Args:
        x: inputs [B * frames, Cin, *in].
        g: cotangents of the output [C, B * frames, Cout, *out].
        ref: as for `conv_dot`.
        kernel_size: one entry for each spatial dimension.
        stride: likewise.
        padding: likewise, zeros on both sides.
        dilation: likewise.
        groups: as in `torch.nn.functional.conv2d`.
        transposed: the layer is `conv_transpose`; its output padding follows from the extent of g.
        frames: this many consecutive images are one sample: their gradients are summed.

    Returns:
        Squared norms [B, C], at least 0, and dot products [B, C].
    """
    return cast(
        tuple[Tensor, Tensor],
        _ops.conv_sqnorm_dot(x, g, ref, kernel_size, stride, padding, dilation, groups, transposed, frames),
    )


def conv_gram(
    x: Tensor,
    g: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
) -> Tensor:
    """Inner products of a convolution's weight gradients across the rows of one sample.

    Args:
        x: inputs [B * frames, Cin, *in].
        g: cotangents of the output [C, B * frames, Cout, *out].
        kernel_size: one entry for each spatial dimension.
        stride: likewise.
        padding: likewise, zeros on both sides.
        dilation: likewise.
        groups: as in `torch.nn.functional.conv2d`.
        transposed: the layer is `conv_transpose`; its output padding follows from the extent of g.
        frames: this many consecutive images are one sample: their gradients are summed.

    Returns:
        [B, C, C]; the diagonal is `conv_sqnorm`.
    """
    return cast(
        Tensor, _ops.conv_gram(x, g, kernel_size, stride, padding, dilation, groups, transposed, frames)
    )


def bias_sqnorm(g: Tensor) -> Tensor:
    """Squared norms of a bias's gradients, `||sum_t g[c, b, :, t]||^2`.

    Args:
        g: cotangents of the output [C, B, O, *], channel third; contiguous and channels-last are both read in place.

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.bias_sqnorm(g))


def bias_dot(g: Tensor, ref: Tensor) -> Tensor:
    """Inner products of a bias's gradients with a reference gradient.

    Args:
        g: cotangents of the output [C, B, O, *].
        ref: reference [O].

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.bias_dot(g, ref))


def bias_gram(g: Tensor) -> Tensor:
    """Inner products of a bias's gradients across the rows of one sample.

    Args:
        g: cotangents of the output [C, B, O, *].

    Returns:
        [B, C, C].
    """
    return cast(Tensor, _ops.bias_gram(g))


def affine_sqnorm(xhat: Tensor, g: Tensor) -> Tensor:
    """Squared norms of a norm layer's scale gradients, `sum_o (sum_t g[c, b, o, t] xhat[b, o, t])^2`.

    Args:
        xhat: what the scale multiplies, [B, O, *].
        g: cotangents of the output [C, B, O, *].

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.affine_sqnorm(xhat, g))


def affine_dot(xhat: Tensor, g: Tensor, ref: Tensor) -> Tensor:
    """Inner products of a norm layer's scale gradients with a reference gradient.

    Args:
        xhat: what the scale multiplies, [B, O, *].
        g: cotangents of the output [C, B, O, *].
        ref: reference [O].

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.affine_dot(xhat, g, ref))


def affine_gram(xhat: Tensor, g: Tensor) -> Tensor:
    """Inner products of a norm layer's scale gradients across the rows of one sample.

    Args:
        xhat: what the scale multiplies, [B, O, *].
        g: cotangents of the output [C, B, O, *].

    Returns:
        [B, C, C].
    """
    return cast(Tensor, _ops.affine_gram(xhat, g))


def embedding_sqnorm(indices: Tensor, g: Tensor, padding_idx: int = -1) -> Tensor:
    """Squared norms of an embedding table's gradients: over each distinct token, `||sum of its g||^2`.

    Args:
        indices: tokens [B, T], int64.
        g: cotangents of the embedded tokens [C, B, T, D].
        padding_idx: positions that hold this token are left out; negative: none are.

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.embedding_sqnorm(indices, g, padding_idx))


def embedding_dot(indices: Tensor, g: Tensor, ref: Tensor, padding_idx: int = -1) -> Tensor:
    """Inner products of an embedding table's gradients with a reference gradient.

    Args:
        indices: tokens [B, T], int64, each in [0, V).
        g: cotangents of the embedded tokens [C, B, T, D].
        ref: reference [V, D].
        padding_idx: positions that hold this token are left out; negative: none are.

    Returns:
        [B, C].
    """
    return cast(Tensor, _ops.embedding_dot(indices, g, ref, padding_idx))


def embedding_gram(indices: Tensor, g: Tensor, padding_idx: int = -1) -> Tensor:
    """Inner products of an embedding table's gradients across the rows of one sample.

    Args:
        indices: tokens [B, T], int64.
        g: cotangents of the embedded tokens [C, B, T, D].
        padding_idx: positions that hold this token are left out; negative: none are.

    Returns:
        [B, C, C].
    """
    return cast(Tensor, _ops.embedding_gram(indices, g, padding_idx))


def gate_backward(
    g: Tensor,
    gate: Tensor | None,
    multiply: bool,
    xs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    factors: Sequence[Tensor] = (),
    plain: bool = True,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One pass over the cotangents behind an activation: its gate, and all that the affine layers before it need.

    With `v = g * gate`, or `v = g` where the gate is positive and 0 elsewhere, or `v = g` without a gate; where there
    is another cotangent, g + other stands for g.

    Args:
        g: cotangents [C, B, T, O]; not float16.
        gate: what the activation does to each position [B, T, O], shared by all rows.
        multiply: whether the gate is a factor.
        xs: up to two inputs of normalizations [B, T, O].
        means: their means [O].
        rstds: their reciprocal standard deviations [O].
        factors: for each normalization, what scales the cotangent on its way to its input [O]; or empty.
        plain: whether v itself is wanted.
        other: a second cotangent of the same positions [C, B, T, O], such as that of a residual branch.

    Returns:
        v [C, B, T, O], or an empty tensor; sums over T of v and of `v * (x - mean) * rstd` for each x, stacked
        [1 + n, C, B, O]; and v * factor [C, B, T, O] for each factor.
    """
    return cast(
        tuple[Tensor, Tensor, list[Tensor]],
        _ops.gate_backward(g, gate, multiply, xs, means, rstds, factors, plain, other),
    )


# Fake kernels: the shapes and dtypes that torch.compile and torch.export need, after the kernels' own checks.


def _numbers(g: Tensor, *shape: int) -> Tensor:
    return g.new_empty(shape, dtype=torch.float64 if g.dtype == torch.float64 else torch.float32)


def _register_fakes(
    family: str, operands: int, samples: Callable[..., int], check_ref: Callable[..., None]
) -> None:
    """Registers the fake kernels of a family's operators.

    Args:
        family: name of the family.
        operands: how many tensors come before the reference; the last of them is g.
        samples: B, from the name of the operator and its arguments without the reference, which it checks.
        check_ref: checks the reference, from the name of the operator, the reference and the other arguments.
    """

    def sqnorm(*args: Any) -> Tensor:
        g: Tensor = args[operands - 1]
        return _numbers(g, samples(f"{family}_sqnorm", *args), g.shape[0])

    def gram(*args: Any) -> Tensor:
        g: Tensor = args[operands - 1]
        return _numbers(g, samples(f"{family}_gram", *args), g.shape[0], g.shape[0])

    def dot(name: str, *args: Any) -> Tensor:
        g: Tensor = args[operands - 1]
        others = (*args[:operands], *args[operands + 1 :])
        b = samples(name, *others)
        check_ref(name, args[operands], *others)
        return _numbers(g, b, g.shape[0])

    def both(*args: Any) -> tuple[Tensor, Tensor]:
        squares = dot(f"{family}_sqnorm_dot", *args)
        return squares, torch.empty_like(squares)

    register = torch.library.register_fake
    register(f"gradfast::{family}_sqnorm", sqnorm)
    register(f"gradfast::{family}_dot", partial(dot, f"{family}_dot"))
    register(f"gradfast::{family}_gram", gram)
    if family in ("linear", "conv"):
        register(f"gradfast::{family}_sqnorm_dot", both)


_register_fakes("linear", 2, ops_checks.linear, ops_checks.linear_ref)
_register_fakes("conv", 2, ops_checks.conv, ops_checks.conv_ref)
_register_fakes("bias", 1, ops_checks.bias, ops_checks.channel_ref)
_register_fakes("affine", 2, ops_checks.affine, ops_checks.channel_ref)
_register_fakes("embedding", 2, ops_checks.embedding, ops_checks.embedding_ref)


def _fake_gate_backward(
    g: Tensor,
    gate: Tensor | None,
    multiply: bool,
    xs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    factors: Sequence[Tensor] = (),
    plain: bool = True,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    ops_checks.gate(g, gate, xs, means, rstds, factors, other)
    dense = torch.empty_like(g, memory_format=torch.contiguous_format)
    rows, batch, _, channels = g.shape
    sums = _numbers(g, 1 + len(xs), rows, batch, channels)
    return (dense if plain else g.new_empty(0)), sums, [torch.empty_like(dense) for _ in factors]


torch.library.register_fake("gradfast::gate_backward", _fake_gate_backward)
