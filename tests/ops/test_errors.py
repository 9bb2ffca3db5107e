"""Bad arguments: the message names the operator and the argument, what came and what was wanted."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tracing import RUN_AND_TRACED

from gradfast import ops

X, G = torch.zeros(2, 3, 4), torch.zeros(5, 2, 3, 6)
IMAGE, COTANGENT = torch.zeros(4, 6, 8, 8), torch.zeros(2, 4, 4, 8, 8)
SAME = {"kernel_size": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
INDICES, EMBEDDED = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(5, 2, 3, 4)


def conv(name: str, *args: Any, **changes: Any) -> Any:
    return lambda: getattr(ops, name)(*args, **{**SAME, **changes})


CASES = [
    (
        lambda: ops.linear_sqnorm(X[0], G),
        ValueError,
        "linear_sqnorm: x has shape [3, 4]; wanted 3 dimensions",
    ),
    (
        lambda: ops.linear_sqnorm(X, X),
        ValueError,
        "linear_sqnorm: g has shape [2, 3, 4]; wanted 4 dimensions",
    ),
    (
        lambda: ops.linear_sqnorm(X, G[:, :, :2]),
        ValueError,
        "g has shape [5, 2, 2, 6]; wanted [C, B, T, O] with B and T of x [2, 3, 4]",
    ),
    (
        lambda: ops.linear_sqnorm(X.long(), G.long()),
        TypeError,
        "x has dtype Long; wanted float32, float64, bfloat16 or float16",
    ),
    (lambda: ops.linear_sqnorm(X, G.double()), TypeError, "g has dtype Double; wanted Float, as x"),
    (
        lambda: ops.linear_sqnorm(X, G, "best"),
        ValueError,
        'form is "best"; wanted auto, direct, gram or rank_one',
    ),
    (lambda: ops.linear_sqnorm(X, G, "rank_one"), ValueError, 'form is "rank_one" for T = 3; wanted T = 1'),
    (
        lambda: ops.linear_dot(X, G, torch.zeros(4, 6)),
        ValueError,
        "linear_dot: ref has shape [4, 6]; wanted [6, 4]",
    ),
    (
        conv("conv_sqnorm", torch.zeros(2, 3), COTANGENT),
        ValueError,
        "x has shape [2, 3]; wanted [B * frames, channels, *spatial]",
    ),
    (conv("conv_sqnorm", IMAGE, COTANGENT[0]), ValueError, "g has shape [4, 4, 8, 8]; wanted 5 dimensions"),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT[:, :3]),
        ValueError,
        "g has 3 images (dim 1); wanted 4, as dim 0 of x",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, groups=4),
        ValueError,
        "x has 6 channels; wanted a multiple of groups = 4",
    ),
    (conv("conv_sqnorm", IMAGE, COTANGENT, groups=0), ValueError, "groups is 0; wanted at least 1"),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, frames=3),
        ValueError,
        "x has 4 images; wanted a multiple of frames = 3",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, kernel_size=[3]),
        ValueError,
        "kernel_size has 1 entries; wanted 2",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, stride=[1, 0]),
        ValueError,
        "stride is [1, 0]; wanted every entry >= 1",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, padding=[1, -1]),
        ValueError,
        "padding is [1, -1]; wanted every entry >= 0",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, padding=[1, 0]),
        ValueError,
        "g has extent 8 in spatial dimension 1; wanted 6",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, transposed=True, stride=[3, 1]),
        ValueError,
        "g has extent 8 in spatial dimension 0; wanted 22 to 24",
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT, form="rank_one"),
        ValueError,
        'form is "rank_one"; wanted auto, direct, gram or pixel_gram',
    ),
    (
        conv("conv_sqnorm", IMAGE, COTANGENT[..., :4, :4], stride=[2, 2], form="pixel_gram"),
        ValueError,
        'form is "pixel_gram" for a convolution with stride; wanted auto, direct or gram',
    ),
    (
        conv("conv_dot", IMAGE, COTANGENT, torch.zeros(6, 4, 3, 3)),
        ValueError,
        "conv_dot: ref has shape [6, 4, 3, 3]; wanted [4, 6, 3, 3]",
    ),
    (lambda: ops.bias_sqnorm(X[0]), ValueError, "bias_sqnorm: g has shape [3, 4]; wanted [C, B, O, *]"),
    (lambda: ops.bias_dot(G, torch.zeros(4)), ValueError, "bias_dot: ref has shape [4]; wanted [3]"),
    (
        lambda: ops.affine_sqnorm(X, G[..., :2]),
        ValueError,
        "affine_sqnorm: g has shape [5, 2, 3, 2]; wanted [C, *] with xhat's [2, 3, 4]",
    ),
    (
        lambda: ops.embedding_sqnorm(INDICES.int(), EMBEDDED),
        TypeError,
        "embedding_sqnorm: indices has dtype Int; wanted int64",
    ),
    (lambda: ops.embedding_sqnorm(INDICES[0], EMBEDDED), ValueError, "indices has shape [3]; wanted [B, T]"),
    (
        lambda: ops.embedding_sqnorm(INDICES[:, :2], EMBEDDED),
        ValueError,
        "g has shape [5, 2, 3, 4]; wanted [C, B, T, D] with B and T of indices [2, 2]",
    ),
    (
        lambda: ops.embedding_dot(INDICES, EMBEDDED, torch.zeros(9, 5)),
        ValueError,
        "ref has shape [9, 5]; wanted [V, 4]",
    ),
    (
        lambda: ops.embedding_dot(INDICES + 9, EMBEDDED, torch.zeros(9, 4)),
        IndexError,
        "indices has 9; wanted 0 to 8, the rows of ref",
    ),
]


@RUN_AND_TRACED
@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2][:60] for case in CASES])
def test_message(call: Any, error: type[Exception], message: str, mode: Any) -> None:
    if error is IndexError and mode is not nullcontext:
        pytest.skip("a fake kernel sees no values")
    with mode(), pytest.raises(error, match=re.escape(message)):
        call()


def test_meta_tensors_are_checked_too() -> None:
    x, g = X.double().to("meta"), G.to("meta")
    with pytest.raises(TypeError, match="linear_sqnorm: g has dtype Float; wanted Double, as x"):
        ops.linear_sqnorm(x, g)
    assert ops.linear_sqnorm(x, g.double()).shape == (2, 5)
