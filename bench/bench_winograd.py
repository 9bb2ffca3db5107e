"""conv3x3_backward against oneDNN's backward-data and the norm kernels, at ResNet-18's stages for 32x32 images.

    pytest bench/bench_winograd.py --benchmark-group-by=param:stage

Ten rows; the time of a round is that of the whole batch. oneDNN takes the rows folded into its batch, channels-last,
which is its fastest way.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from gradfast import ops

ROWS, BATCH = 10, 8
STAGES = {"64@32x32": (64, 32), "128@16x16": (128, 16), "256@8x8": (256, 8), "512@4x4": (512, 4)}
GEOMETRY = ([3, 3], [1, 1], [1, 1], [1, 1])  # kernel, stride, padding, dilation


def onednn(g: Tensor, weight: Tensor, x: Tensor) -> object:
    _, stride, padding, dilation = GEOMETRY
    batch, (channels, *size) = g.shape[0] * g.shape[1], x.shape[1:]
    unread = x.new_empty(batch, *size, channels).permute(0, 3, 1, 2)  # its values are not needed
    return torch.ops.aten.convolution_backward(
        g.flatten(0, 1),
        unread,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        1,
        [True, False, False],
    )


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "onednn_dx": onednn,
    "winograd_dx": lambda g, weight, x: ops.conv3x3_backward(g, weight, need_sqnorm=False),
    "winograd_sq": lambda g, weight, x: ops.conv3x3_backward(g, weight, x, need_input_grad=False),
    "winograd_both": lambda g, weight, x: ops.conv3x3_backward(g, weight, x),
    "conv_sqnorm": lambda g, weight, x: ops.conv_sqnorm(x, g, *GEOMETRY),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("method", METHODS)
def test_stage(benchmark: BenchmarkFixture, method: str, stage: str, dtype: torch.dtype) -> None:
    channels, size = STAGES[stage]
    torch.manual_seed(0)
    g = torch.randn(ROWS, BATCH, size, size, channels).to(dtype).permute(0, 1, 4, 2, 3)
    x = torch.randn(BATCH, size, size, channels).relu().to(dtype).permute(0, 3, 1, 2)
    weight = torch.randn(channels, channels, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    benchmark.extra_info["direct_gflop"] = 18 * channels**2 * size**2 * ROWS * BATCH / 1e9
    benchmark(METHODS[method], g, weight, x)
