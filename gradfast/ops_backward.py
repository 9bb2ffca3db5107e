"""Input gradients of convolutions for all rows, one of them with the norms; re-exported by `gradfast.ops`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from . import _extension, ops_checks

_extension.load()  # if `import gradfast` has not
_extension.check(("conv3x3_backward", "conv_input_grad"))

_MIN_CHANNELS = 16
# In float32 multiply-adds for each pair of input and output channels, as measured on AVX-512:
_TILE = 50.0  # 36 products, and the transforms
_TRANSFORM_WEIGHT = 400.0  # once for all images
_SUM_SQUARES = 150.0  # the inverse transform of a weight gradient, once for each image
_ARM = ("aarch64", "arm64")


def conv3x3_backward(
    g: Tensor,
    weight: Tensor,
    x: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    need_input_grad: bool = True,
    need_sqnorm: bool = True,
) -> tuple[Tensor, Tensor]:
    """Backward of a 3x3 convolution with stride 1, padding 1 and no groups, for all rows, by Winograd's F(4x4, 3x3).

    The cotangent of the convolution's output is `v = g * scale`, or 0 where `mask` is not positive. One transform of
    v serves the input gradient and the weight gradient, each with 4 times fewer multiplications than the direct form.
    float32 rounds to about 1e-6 of the input gradient's norm and 1e-7 of the squared norms. With bfloat16 operands
    the input gradient is still computed in float32, as the errors of Winograd in bfloat16 (1e-2) would add up over
    the layers; the norms are taken of products of bfloat16, where the processor has them (1e-3).

    Args:
        g: cotangents [C, B, O, H, W], float32 or bfloat16; channels-last (stride 1 at O) is read in place, with any
            other strides.
        weight: [O, I, 3, 3]; of the dtype of g, as x and mask.
        x: input of the convolution [B, I, H, W], for the norms; channels-last is read in place.
        mask: [B, O, H, W], shared by all rows, such as the output of the ReLU that g is a cotangent of.
        scale: [O] float32, such as that of a BatchNorm between the convolution and the ReLU.
        need_input_grad: whether the first result is wanted.
        need_sqnorm: whether the second result is wanted.

    Returns:
        The input gradient [C, B, I, H, W], each row channels-last, or [0, B, I, H, W] if it is not wanted; and the
        squared norms of the weight gradient of each sample [B, C], float32, or [B, 0]. Both are the same bit for bit
        for any number of threads.

    Raises:
        ValueError: a wrong shape, or no x where norms are wanted.
        TypeError: a wrong dtype.

    Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), here with the points
    0, +-1/sqrt(2), +-sqrt(2), infinity; weight gradient by F(3x3, 4x4), which has the same data transform.
    """
    return cast(
        tuple[Tensor, Tensor],
        torch.ops.gradfast.conv3x3_backward(g, weight, x, mask, scale, need_input_grad, need_sqnorm),
    )


def has_conv3x3_backward(g: Tensor, weight: Tensor, *, sqnorm: bool = False) -> bool:
    """Whether `conv3x3_backward` takes these operands and is the fastest form of the input gradient for them.

    It has no CUDA implementation, wants float32 or bfloat16, enough channels to fill vectors, images that fill most of
    their 4x4 tiles, and enough of them to pay for the transform of the weight. Geometry (3x3, stride 1, padding 1,
    dilation 1, groups 1) is for the caller to check.

    Args:
        g: cotangents [C, B, O, H, W].
        weight: [O, I, 3, 3].
        sqnorm: ask instead whether the norms should be taken by it too: not where there are few positions, for
            which the Gram form of `conv_sqnorm` is cheaper.
    """
    if g.device.type != "cpu" or g.dtype not in (torch.float32, torch.bfloat16) or weight.dtype != g.dtype:
        return False
    rows, batch, out_channels, height, width = g.shape
    in_channels, positions = weight.shape[1], height * width
    tiles = -(-height // 4) * -(-width // 4)
    least = _MIN_CHANNELS // 2 if g.dtype == torch.float32 else _MIN_CHANNELS
    if min(out_channels, in_channels) < least or not _vectors():
        return False
    direct = (
        9 * positions * (1 if g.dtype == torch.float32 else 0.5)
    )  # bfloat16 multiplies at twice the speed
    if sqnorm:
        # Half of G G' and, shared by the rows, half of X X' are enough.
        gram = positions * positions / 2 * (1 / in_channels + 1 / (out_channels * max(rows, 1)))
        return 36 * tiles + _SUM_SQUARES < min(gram, direct)
    return rows * batch * (direct - _TILE * tiles) > _TRANSFORM_WEIGHT


def conv_input_grad(
    g: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Input gradient of a two-dimensional convolution without dilation and groups, for all rows.

    Made for strides above one: the pixels are taken phase by phase, each with the taps that reach it, so that no product
    with a zero is formed and every pixel is written once. Products of bfloat16 are summed in float32.

    Args:
        g: cotangents [C, B, O, H', W'], float32 or bfloat16; channels-last (stride 1 at O) is read in place.
        weight: [O, I, h, w], of the dtype of g.
        stride: of the convolution, two numbers.
        padding: of the convolution, two numbers.
        size: H, W of the input.

    Returns:
        [C, B, I, H, W], each row channels-last, of the dtype of g; the same bit for bit for any number of threads.

    Raises:
        ValueError: a wrong shape.
        TypeError: a wrong dtype.
    """
    return cast(Tensor, torch.ops.gradfast.conv_input_grad(g, weight, stride, padding, size))


def has_conv_input_grad(g: Tensor, weight: Tensor, stride: Sequence[int]) -> bool:
    """Whether `conv_input_grad` takes these operands and is faster than torch's own form, as measured on AVX-512.

    Args:
        g: cotangents [C, B, O, H', W'].
        weight: [O, I, h, w].
        stride: of the convolution.
    """
    if g.device.type != "cpu" or g.dtype not in (torch.float32, torch.bfloat16) or weight.dtype != g.dtype:
        return False
    if len(stride) != 2 or min(stride) < 2 or min(weight.shape[:2]) < _MIN_CHANNELS or not _vectors():
        return False
    # torch is as fast where float32 products rule; the work around them is what is saved.
    return g.dtype == torch.bfloat16 or weight.shape[2:] == (1, 1) or weight.shape[0] <= 64


def _vectors() -> bool:
    from . import _C

    return _C.cpu_isa() != "baseline" or platform.machine().lower() in _ARM


def _fake_conv3x3_backward(
    g: Tensor,
    weight: Tensor,
    x: Tensor | None = None,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    need_input_grad: bool = True,
    need_sqnorm: bool = True,
) -> tuple[Tensor, Tensor]:
    op = "conv3x3_backward"
    ops_checks.operand(op, "g", g, 5)
    ops_checks.operand(op, "weight", weight, 4)
    ops_checks.dtype_is(op, "g", g, (torch.float32, torch.bfloat16), "float32 or bfloat16")
    ops_checks.same(op, "g", g, "weight", weight)
    rows, batch, out_channels, height, width = g.shape
    in_channels = weight.shape[1]
    ops_checks.shape_is(op, "weight", weight, [out_channels, in_channels, 3, 3])
    ops_checks.value(
        op, x is not None or not need_sqnorm, lambda: "x is None; wanted a tensor, as need_sqnorm is true"
    )
    for name, t, channels in (("x", x if need_sqnorm else None, in_channels), ("mask", mask, out_channels)):
        if t is not None:
            ops_checks.operand(op, name, t, 4)
            ops_checks.same(op, "g", g, name, t)
            ops_checks.shape_is(op, name, t, [batch, channels, height, width])
    if scale is not None:
        ops_checks.dtype_is(op, "scale", scale, (torch.float32,), "float32")
        ops_checks.shape_is(op, "scale", scale, [out_channels])
    dx = g.new_empty((rows if need_input_grad else 0, batch, height, width, in_channels))
    sq = g.new_empty((batch, rows if need_sqnorm else 0), dtype=torch.float32)
    return dx.permute(0, 1, 4, 2, 3), sq


torch.library.register_fake("gradfast::conv3x3_backward", _fake_conv3x3_backward)


def _fake_conv_input_grad(
    g: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], size: Sequence[int]
) -> Tensor:
    op = "conv_input_grad"
    ops_checks.operand(op, "g", g, 5)
    ops_checks.operand(op, "weight", weight, 4)
    ops_checks.dtype_is(op, "g", g, (torch.float32, torch.bfloat16), "float32 or bfloat16")
    ops_checks.same(op, "g", g, "weight", weight)
    rows, batch, out_channels = g.shape[:3]
    came, kernel = list(g.shape), list(weight.shape[2:])
    ops_checks.value(
        op,
        weight.shape[0] == out_channels,
        lambda: (
            f"weight has shape {list(weight.shape)}; wanted [{out_channels}, I, h, w], for g has shape {came}"
        ),
    )
    two = len(stride) == len(padding) == len(size) == 2
    ops_checks.value(op, two, lambda: "wanted two numbers each for stride, padding and size")
    how = f"stride {list(stride)}, padding {list(padding)} and a kernel of {kernel}"
    ops_checks.value(
        op,
        min(stride) > 0 and min(padding) >= 0 and min(kernel) > 0,
        lambda: f"got {how}; wanted positive ones",
    )
    spans = [size[d] + 2 * padding[d] - kernel[d] for d in range(2)]
    ops_checks.value(
        op,
        all(spans[d] >= 0 and spans[d] // stride[d] + 1 == g.shape[3 + d] for d in range(2)),
        lambda: (
            f"g has shape {came}, which is not what a kernel of {kernel} with stride {list(stride)} "
            f"and padding {list(padding)} makes of {list(size)}"
        ),
    )
    return g.new_empty((rows, batch, *size, weight.shape[1])).permute(0, 1, 4, 2, 3)


torch.library.register_fake("gradfast::conv_input_grad", _fake_conv_input_grad)
