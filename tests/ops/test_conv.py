"""Convolutions: every option, form, layout and dtype against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import truth
from compare import DTYPES, assert_close, assert_dot_close, assert_gram_close
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, lay_out

from gradfast import ops


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    dims = draw(st.integers(1, 3))
    most = {1: 12, 2: 7, 3: 4}[dims]
    transposed = draw(st.booleans())

    def each(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(dims)]

    kernel, stride, dilation = each(1, 3), each(1, 3), each(1, 2)
    padding = each(0, 2)
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if transposed:
        small = each(1, most)
        extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        large = [
            (n - 1) * s - 2 * p + w + e
            for n, s, p, w, e in zip(small, stride, padding, span, extra, strict=True)
        ]
        if min(large) < 1:
            padding = [0] * dims
            large = [(n - 1) * s + w + e for n, s, w, e in zip(small, stride, span, extra, strict=True)]
        x_extent, g_extent = small, large
    else:
        x_extent = [max(n, w - 2 * p) for n, w, p in zip(each(1, most), span, padding, strict=True)]
        g_extent = [
            (n + 2 * p - w) // s + 1 for n, p, w, s in zip(x_extent, padding, span, stride, strict=True)
        ]

    groups = draw(st.integers(1, 3))
    x_channels, g_channels = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 9))
    frames, samples, rows = draw(st.integers(1, 2)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples * frames, x_channels, *x_extent, generator=generator).to(dtype)
    g = torch.randn(rows, samples * frames, g_channels, *g_extent, generator=generator).to(dtype)
    options = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "transposed": transposed,
        "frames": frames,
    }
    return (
        lay_out(x, draw(st.sampled_from(LAYOUTS)), 1),
        lay_out(g, draw(st.sampled_from(LAYOUTS)), 2),
        options,
    )


Problem = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]


def forms(options: dict[str, Any]) -> list[str]:
    """The forms that can take this convolution."""
    pixel = ["pixel_gram"] if set(options["stride"]) == {1} and not options.get("transposed") else []
    return ["auto", "direct", "gram", *pixel]


@settings(max_examples=150)
@given(problems())
def test_sqnorm(problem: Problem) -> None:
    x, g, options = problem
    want = truth.sqnorm(truth.conv(x, g, **options))
    for form in forms(options):
        assert_close(ops.conv_sqnorm(x, g, **options, form=form), want, x.dtype)


@settings(max_examples=60)
@given(problems())
def test_dot(problem: Problem) -> None:
    x, g, options = problem
    left, right = (x, g) if options["transposed"] else (g, x)
    channel = 1 if left is x else 2
    shape = (left.shape[channel], right.shape[3 - channel] // options["groups"], *options["kernel_size"])
    ref = torch.randn(shape).to(x.dtype)
    grads = truth.conv(x, g, **options)
    assert_dot_close(ops.conv_dot(x, g, ref, **options), grads, ref, x.dtype)
    sqnorm, dot = ops.conv_sqnorm_dot(x, g, ref, **options)
    assert torch.equal(sqnorm, ops.conv_sqnorm(x, g, **options))
    assert_dot_close(dot, grads, ref, x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "padding", "dilation", "extra", "groups", "frames"),
    [
        ((5, 7), (4, 4), (2, 2), (1, 1), (1, 1), (0, 0), 1, 1),  # the last layer of GradCON's decoder
        ((3, 5), (4, 3), (2, 2), (2, 0), (1, 1), (1, 1), 1, 1),
        ((4, 3), (3, 2), (1, 2), (1, 1), (3, 4), (2, 3), 3, 2),  # output padding above the stride
        ((1, 1), (1, 5), (3, 1), (0, 2), (1, 1), (2, 0), 2, 1),
        ((6,), (3,), (3,), (4,), (1,), (2,), 1, 3),
    ],
)  # fmt: skip
def test_dot_of_one_row_transposed(
    dtype: torch.dtype, layout: str, extent: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
    padding: tuple[int, ...], dilation: tuple[int, ...], extra: tuple[int, ...], groups: int, frames: int,
) -> None:  # fmt: skip
    """One row goes by the adjoint: a convolution of the cotangent, cut to the positions that were read."""
    large = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, k, s, p, d, e in zip(extent, kernel, stride, padding, dilation, extra, strict=True)
    ]
    x = lay_out(torch.randn(2 * frames, 4 * groups, *extent).to(dtype), layout, 1)
    g = lay_out(torch.randn(1, 2 * frames, 3 * groups, *large).to(dtype), layout, 2)
    ref = torch.randn(4 * groups, 3, *kernel).to(dtype)
    options = {
        "kernel_size": list(kernel), "stride": list(stride), "padding": list(padding), "dilation": list(dilation),
        "groups": groups, "transposed": True, "frames": frames,
    }  # fmt: skip
    assert_dot_close(ops.conv_dot(x, g, ref, **options), truth.conv(x, g, **options), ref, dtype)


@settings(max_examples=60)
@given(problems())
def test_gram(problem: Problem) -> None:
    x, g, options = problem
    assert_gram_close(ops.conv_gram(x, g, **options), truth.conv(x, g, **options), x.dtype)


# Layers of well-known models, with (in, out, extent, kernel, stride, padding, groups).
LAYERS = {
    "ResNet stem": (3, 20, 16, 3, 1, 1, 1),
    "ResNet block": (64, 40, 9, 3, 1, 1, 1),
    "stride": (33, 48, 11, 3, 2, 1, 1),
    "pointwise": (48, 70, 7, 1, 1, 0, 1),
    "pointwise with stride": (40, 17, 9, 1, 2, 0, 1),
    "ViT patches": (3, 24, 32, 8, 8, 0, 1),
    "depthwise": (37, 37, 10, 7, 1, 3, 37),
    "depthwise with stride": (32, 32, 9, 3, 2, 1, 32),
    "ResNeXt": (32, 64, 8, 3, 1, 1, 8),
    "one position": (20, 30, 3, 3, 1, 0, 1),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_layers(layer: str, dtype: torch.dtype, channels_last: bool) -> None:
    cin, cout, extent, kernel, stride, padding, groups = LAYERS[layer]
    out = (extent + 2 * padding - kernel) // stride + 1
    x, g = torch.randn(2, cin, extent, extent).to(dtype), torch.randn(2, 2, cout, out, out).to(dtype)
    if channels_last:
        x, g = lay_out(x, "channels_last", 1), lay_out(g, "channels_last", 2)
    options = {
        "kernel_size": [kernel] * 2,
        "stride": [stride] * 2,
        "padding": [padding] * 2,
        "dilation": [1] * 2,
        "groups": groups,
    }
    grads = truth.conv(x, g, **options)
    for form in forms(options):
        assert_close(ops.conv_sqnorm(x, g, **options, form=form), truth.sqnorm(grads), dtype)
    assert_gram_close(ops.conv_gram(x, g, **options), grads, dtype)


def test_grouped_convolution_that_backpack_gets_wrong() -> None:
    """BackPACK's BatchL2Grad unfolds without regard to groups: 3.6 to 4.6 times the true squared norm at groups=4."""
    x, g = torch.randn(3, 16, 8, 8), torch.randn(1, 3, 16, 8, 8)
    options = {"kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 4}
    want = truth.sqnorm(truth.conv(x, g, **options))
    assert_close(ops.conv_sqnorm(x, g, **options), want, x.dtype)
    without_groups = ops.conv_sqnorm(x, g, **{**options, "groups": 1})
    assert (without_groups / want > 3).all()


@pytest.mark.parametrize("form", ["direct", "gram", "pixel_gram"])
@pytest.mark.parametrize("samples", [1, 3, 8])
def test_same_bits_for_any_number_of_threads(form: str, samples: int) -> None:
    x, g = torch.randn(samples, 20, 12, 12), torch.randn(3, samples, 30, 12, 12)
    options = {"kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "form": form}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.conv_sqnorm(x, g, **options)
        torch.set_num_threads(2)
        assert torch.equal(ops.conv_sqnorm(x, g, **options), one)
    finally:
        torch.set_num_threads(threads)
