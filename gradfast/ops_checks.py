"""The kernels' checks of shapes, dtypes and options (`csrc/checks.h`, `conv_shape.h`, `gate_args.h`) for the fake kernels: the same errors
and words, so that a call is refused alike whether it is run or traced. What depends on values is for the kernels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "affine",
    "bias",
    "channel_ref",
    "conv",
    "conv_ref",
    "dtype_is",
    "embedding",
    "embedding_ref",
    "gate",
    "linear",
    "linear_ref",
    "operand",
    "same",
    "shape_is",
    "value",
]

_OPERANDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MOST_NORMS = 2  # that gate_backward takes
# As C++ prints them.
_NAMES = {
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bool: "Bool",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
}


def value(op: str, holds: bool, message: Callable[[], str]) -> None:
    """Raises ValueError unless it holds."""
    torch._check_value(holds, lambda: f"{op}: {message()}")


def dtype_is(op: str, name: str, t: Tensor, dtypes: Sequence[torch.dtype], wanted: str) -> None:
    """Raises TypeError unless the tensor is of one of the dtypes."""
    if t.dtype not in dtypes:
        raise TypeError(f"{op}: {name} has dtype {_NAMES.get(t.dtype, t.dtype)}; wanted {wanted}")


def operand(op: str, name: str, t: Tensor, dimensions: int) -> None:
    value(op, t.dim() == dimensions, lambda: f"{name} has shape {_of(t)}; wanted {dimensions} dimensions")
    dtype_is(op, name, t, _OPERANDS, "float32, float64, bfloat16 or float16")


def same(op: str, a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    """Of dtype and device."""
    dtype_is(op, b_name, b, (a.dtype,), f"{_NAMES.get(a.dtype, a.dtype)}, as {a_name}")
    _device(op, a_name, a, b_name, b)


def shape_is(op: str, name: str, t: Tensor, wanted: Sequence[int]) -> None:
    value(op, _alike(t.shape, wanted), lambda: f"{name} has shape {_of(t)}; wanted {list(wanted)}")


def linear(op: str, x: Tensor, g: Tensor, form: str = "auto") -> int:
    """B of x [B, T, D] and g [C, B, T, O]."""
    operand(op, "x", x, 3)
    operand(op, "g", g, 4)
    same(op, "x", x, "g", g)
    value(
        op,
        _alike(g.shape[1:3], x.shape[:2]),
        lambda: f"g has shape {_of(g)}; wanted [C, B, T, O] with B and T of x {_of(x)}",
    )
    forms = ("auto", "direct", "gram", "rank_one")
    value(op, form in forms, lambda: f'form is "{form}"; wanted auto, direct, gram or rank_one')
    if form == "rank_one":
        value(op, x.shape[1] == 1, lambda: f'form is "rank_one" for T = {x.shape[1]}; wanted T = 1')
    return x.shape[0]


def linear_ref(op: str, ref: Tensor, x: Tensor, g: Tensor) -> None:
    same(op, "x", x, "ref", ref)
    shape_is(op, "ref", ref, [g.shape[3], x.shape[2]])


def bias(op: str, g: Tensor) -> int:
    """B of g [C, B, O, *]."""
    value(op, g.dim() >= 3, lambda: f"g has shape {_of(g)}; wanted [C, B, O, *]")
    operand(op, "g", g, g.dim())
    return g.shape[1]


def affine(op: str, xhat: Tensor, g: Tensor) -> int:
    """B of xhat [B, O, *] and g [C, B, O, *]."""
    value(op, xhat.dim() >= 2, lambda: f"xhat has shape {_of(xhat)}; wanted [B, O, *]")
    operand(op, "xhat", xhat, xhat.dim())
    operand(op, "g", g, xhat.dim() + 1)
    same(op, "xhat", xhat, "g", g)
    value(
        op,
        _alike(g.shape[1:], xhat.shape),
        lambda: f"g has shape {_of(g)}; wanted [C, *] with xhat's {_of(xhat)}",
    )
    return xhat.shape[0]


def channel_ref(op: str, ref: Tensor, *operands: Tensor) -> None:
    """[O], of a bias or a scale."""
    g = operands[-1]
    same(op, "g", g, "ref", ref)
    shape_is(op, "ref", ref, [g.shape[2]])


def embedding(op: str, indices: Tensor, g: Tensor, padding_idx: int = -1) -> int:
    """B of indices [B, T] and g [C, B, T, D]."""
    value(op, indices.dim() == 2, lambda: f"indices has shape {_of(indices)}; wanted [B, T]")
    dtype_is(op, "indices", indices, (torch.int64,), "int64")
    operand(op, "g", g, 4)
    _device(op, "indices", indices, "g", g)
    value(
        op,
        _alike(g.shape[1:3], indices.shape),
        lambda: f"g has shape {_of(g)}; wanted [C, B, T, D] with B and T of indices {_of(indices)}",
    )
    return indices.shape[0]


def embedding_ref(op: str, ref: Tensor, indices: Tensor, g: Tensor, padding_idx: int = -1) -> None:
    same(op, "g", g, "ref", ref)
    fits = ref.dim() == 2 and ref.shape[1] == g.shape[3]
    value(op, fits, lambda: f"ref has shape {_of(ref)}; wanted [V, {g.shape[3]}]")


def conv(
    op: str,
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
) -> int:
    """B of x [B * frames, Cin, *in] and g [C, B * frames, Cout, *out]."""
    dims = x.dim() - 2
    spatial = "[B * frames, channels, *spatial] with 1 to 3 spatial dimensions"
    value(op, 1 <= dims <= 3, lambda: f"x has shape {_of(x)}; wanted {spatial}")
    operand(op, "x", x, dims + 2)
    operand(op, "g", g, dims + 3)
    same(op, "x", x, "g", g)
    value(op, groups >= 1, lambda: f"groups is {groups}; wanted at least 1")
    value(op, frames >= 1, lambda: f"frames is {frames}; wanted at least 1")
    images = x.shape[0]
    value(
        op,
        g.shape[1] == images,
        lambda: f"g has {g.shape[1]} images (dim 1); wanted {images}, as dim 0 of x",
    )
    value(
        op,
        images % frames == 0,
        lambda: f"x has {images} images; wanted a multiple of frames = {frames}",
    )
    for name, channels in (("x", x.shape[1]), ("g", g.shape[2])):
        _divides(op, name, channels, groups)
    _entries(op, "kernel_size", kernel_size, dims, 1)
    _entries(op, "stride", stride, dims, 1)
    _entries(op, "padding", padding, dims, 0)
    _entries(op, "dilation", dilation, dims, 1)
    for i in range(dims):
        span = dilation[i] * (kernel_size[i] - 1) + 1
        of_x, of_g = x.shape[2 + i], g.shape[3 + i]
        if transposed:
            _transposed_extent(op, x, i, of_g, of_x, stride[i], padding[i], dilation[i], span)
        else:
            _extent(op, x, i, of_g, of_x + 2 * padding[i] - span, stride[i])
    forms = ("auto", "direct", "gram", "pixel_gram")
    value(op, form in forms, lambda: f'form is "{form}"; wanted auto, direct, gram or pixel_gram')
    if form == "pixel_gram":
        kind = "transposed convolution" if transposed else "convolution with stride"
        value(
            op,
            not transposed and all(s == 1 for s in stride),
            lambda: f'form is "pixel_gram" for a {kind}; wanted auto, direct or gram',
        )
    return images // frames


def conv_ref(
    op: str,
    ref: Tensor,
    x: Tensor,
    g: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    frames: int = 1,
) -> None:
    same(op, "x", x, "ref", ref)
    outer, inner = (x.shape[1], g.shape[2]) if transposed else (g.shape[2], x.shape[1])
    shape_is(op, "ref", ref, [outer, inner // groups, *kernel_size])


def gate(
    g: Tensor,
    gate: Tensor | None,
    xs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    factors: Sequence[Tensor],
    other: Tensor | None,
) -> None:
    op = "gate_backward"
    operand(op, "g", g, 4)
    counts = len(xs), len(means), len(rstds)
    value(
        op,
        len(set(counts)) == 1 and len(xs) <= _MOST_NORMS and len(factors) in (0, len(xs)),
        lambda: (
            f"got {counts[0]} xs, {counts[1]} means, {counts[2]} rstds and {len(factors)} factors; "
            f"wanted equally many, at most {_MOST_NORMS}"
        ),
    )
    whole = [("other", other, g.shape), ("gate", gate, g.shape[1:]), *(("xs", x, g.shape[1:]) for x in xs)]
    for name, t, shape in whole:
        if t is not None:
            same(op, "g", g, name, t)
            shape_is(op, name, t, shape)
    for name, vectors in (("means", means), ("rstds", rstds), ("factors", factors)):
        for t in vectors:
            shape_is(op, name, t, [g.shape[3]])
    dtype_is(op, "g", g, (torch.float32, torch.float64, torch.bfloat16), "float32, float64 or bfloat16")


def _of(t: Tensor) -> list[int]:
    return list(t.shape)


def _alike(a: Sequence[int], b: Sequence[int]) -> bool:
    return len(a) == len(b) and all(m == n for m, n in zip(a, b, strict=True))


def _device(op: str, a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    value(op, a.device == b.device, lambda: f"{b_name} is on {b.device}; wanted {a.device}, as {a_name}")


def _divides(op: str, name: str, channels: int, groups: int) -> None:
    value(
        op,
        channels % groups == 0,
        lambda: f"{name} has {channels} channels; wanted a multiple of groups = {groups}",
    )


def _entries(op: str, name: str, given: Sequence[int], dims: int, least: int) -> None:
    value(
        op,
        len(given) == dims,
        lambda: f"{name} has {len(given)} entries; wanted {dims}, one for each spatial dimension of x",
    )
    value(
        op,
        all(entry >= least for entry in given),
        lambda: f"{name} is {list(given)}; wanted every entry >= {least}",
    )


def _extent(op: str, x: Tensor, i: int, got: int, room: int, stride: int) -> None:
    wanted = 0 if room < 0 else room // stride + 1
    where = f"in spatial dimension {i}"
    value(
        op,
        got == wanted,
        lambda: f"g has extent {got} {where}; wanted {wanted} for this convolution of x {_of(x)}",
    )


def _transposed_extent(
    op: str, x: Tensor, i: int, got: int, of_x: int, stride: int, padding: int, dilation: int, span: int
) -> None:
    least = (of_x - 1) * stride - 2 * padding + span
    most = least + max(stride, dilation) - 1  # least + output_padding
    where = f"in spatial dimension {i}"
    value(
        op,
        of_x == 0 or least <= got <= most,
        lambda: (
            f"g has extent {got} {where}; wanted {least} to {most} for this transposed convolution of x {_of(x)}"
        ),
    )
