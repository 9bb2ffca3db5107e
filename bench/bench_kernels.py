"""Each operator alone: GFLOP/s and GB/s, to be held against what this machine's matrix products and memory reach.

The cases are the layers of ResNet-18 at 32 x 32 and of ViT-S, with 10 rows and 4 samples, operands as the engine has them
(channels-last). flops are those of the form taken, by the kernels' own cost model (gradfast._C.weight_norm_forms) or, for the
fused steps, as said beside the case; bytes are those of operands and results, each touched once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from gradfast import ops
from gradfast.bench.machine import limits
from gradfast.engine.explain import flops_of
from gradfast.rules.uses import ConvUse, LinearUse, Use

ROWS, SAMPLES = 10, 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Case:
    call: Callable[[], object]
    flops: float
    operands: list[Tensor]
    results: float = 0.0  # bytes written

    @property
    def bytes(self) -> float:
        return self.results + sum(t.numel() * t.element_size() for t in self.operands)


def images(channels: int, side: int, dtype: torch.dtype, rows: int | None = ROWS) -> Tensor:
    """[C, B, channels, side, side], or without rows; each image channels-last."""
    lead = (SAMPLES,) if rows is None else (rows, SAMPLES)
    return torch.randn(*lead, side, side, channels).to(dtype).movedim(-1, -3)


def conv(
    inputs: int, outputs: int, side: int, kernel: int, form: str, dtype: torch.dtype, groups: int = 1
) -> Case:
    """A convolution with stride 1 that keeps the image's size."""
    x, g = images(inputs, side, dtype, None), images(outputs, side, dtype)
    padding = (kernel // 2,) * 2
    use = ConvUse(
        x, g, (outputs, inputs // groups, kernel, kernel), (1, 1), padding, (1, 1), groups, False, 1
    )
    call = partial(ops.conv_sqnorm, x, g, (kernel, kernel), (1, 1), padding, (1, 1), groups, False, 1, form)
    return Case(call, flops_of(use, form), [x, g])


def linear(tokens: int, inputs: int, outputs: int, form: str, dtype: torch.dtype) -> Case:
    x = torch.randn(SAMPLES, tokens, inputs).to(dtype)
    g = torch.randn(ROWS, SAMPLES, tokens, outputs).to(dtype)
    use: Use = LinearUse(x, g)
    return Case(partial(ops.linear_sqnorm, x, g, form), flops_of(use, form), [x, g])


def bias(channels: int, side: int, dtype: torch.dtype) -> Case:
    g = images(channels, side, dtype)
    return Case(partial(ops.bias_sqnorm, g), g.numel(), [g])


def affine(channels: int, side: int, dtype: torch.dtype) -> Case:
    g, xhat = images(channels, side, dtype), images(channels, side, dtype, None)
    return Case(partial(ops.affine_sqnorm, xhat, g), 2 * g.numel(), [g, xhat])


def tokens(length: int, width: int, dtype: torch.dtype) -> Case:
    g = torch.randn(ROWS, SAMPLES, length, width).to(dtype)
    indices = torch.randint(32_000, (SAMPLES, length))
    return Case(partial(ops.embedding_sqnorm, indices, g), g.numel(), [g, indices])


def gate(channels: int, side: int, dtype: torch.dtype) -> Case:
    """ReLU's mask, BatchNorm's scale, and its bias' and weight's sums: a product, two sums and a multiply-add an entry."""
    t = side * side
    g = torch.randn(ROWS, SAMPLES, t, channels).to(dtype)
    x, mask = (torch.randn(SAMPLES, t, channels).to(dtype) for _ in range(2))
    mean, rstd, factor = torch.rand(3, channels)
    call = partial(ops.gate_backward, g, mask, False, [x], [mean], [rstd], [factor], False)
    return Case(call, 4 * g.numel(), [g, x, mask], g.numel() * g.element_size())


def winograd(channels: int, side: int, dtype: torch.dtype) -> Case:
    """Input gradient and norm of a 3x3 convolution: 2 * 36 / 16 flops a pair of channels and position for each of them."""
    g, x = images(channels, side, dtype), images(channels, side, dtype, None)
    weight = torch.randn(channels, channels, 3, 3).to(dtype)
    return Case(
        partial(ops.conv3x3_backward, g, weight, x),
        2 * 4.5 * g.numel() * channels,
        [g, x, weight],
        g.numel() * g.element_size(),
    )


CASES: dict[str, Callable[[torch.dtype], Case]] = {
    "conv 3x3, 64 at 32x32, direct": partial(conv, 64, 64, 32, 3, "direct"),
    "conv 3x3, 128 at 16x16, direct": partial(conv, 128, 128, 16, 3, "direct"),
    "conv 3x3, 128 at 16x16, gram": partial(conv, 128, 128, 16, 3, "gram"),
    "conv 3x3, 128 at 16x16, pixel_gram": partial(conv, 128, 128, 16, 3, "pixel_gram"),
    "conv 3x3, 256 at 8x8, gram": partial(conv, 256, 256, 8, 3, "gram"),
    "conv 3x3, 256 at 8x8, pixel_gram": partial(conv, 256, 256, 8, 3, "pixel_gram"),
    "conv 3x3, 512 at 4x4, gram": partial(conv, 512, 512, 4, 3, "gram"),
    "conv 3x3, 512 at 4x4, pixel_gram": partial(conv, 512, 512, 4, 3, "pixel_gram"),
    "conv 1x1, 64 to 256 at 56x56, direct": partial(conv, 64, 256, 56, 1, "direct"),
    "conv 3x3, depthwise 256 at 14x14, direct": partial(conv, 256, 256, 14, 3, "direct", groups=256),
    "linear, 197 tokens, 384 to 1536, direct": partial(linear, 197, 384, 1536, "direct"),
    "linear, 197 tokens, 384 to 1536, gram": partial(linear, 197, 384, 1536, "gram"),
    "linear, 65 tokens, 384 to 1536, gram": partial(linear, 65, 384, 1536, "gram"),
    "linear, 1 position, 2048 to 1000, rank_one": partial(linear, 1, 2048, 1000, "rank_one"),
    "bias, 64 at 32x32": partial(bias, 64, 32),
    "affine, 64 at 32x32": partial(affine, 64, 32),
    "embedding, 512 tokens of width 512": partial(tokens, 512, 512),
    "gate, 64 at 32x32": partial(gate, 64, 32),
    "gate, 512 at 4x4": partial(gate, 512, 4),
    "winograd, 64 at 32x32": partial(winograd, 64, 32),
    "winograd, 256 at 8x8": partial(winograd, 256, 8),
}


def measure_limits(record: Callable[..., None], seconds: float) -> None:
    found = limits(min(1.0, seconds))
    record(kind="limits", **found)
    assert min(found.values()) > 0


# Before the kernels and after them: the better of the two counts.
def test_limits_before(record: Callable[..., None], seconds: float) -> None:
    measure_limits(record, seconds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_kernel(
    benchmark: BenchmarkFixture, record: Callable[..., None], case: str, dtype: str, seconds: float
) -> None:
    torch.manual_seed(0)
    made = CASES[case](dtype=DTYPES[dtype])
    benchmark.pedantic(made.call, rounds=5, iterations=1, warmup_rounds=1)
    best = benchmark.stats.stats.min
    record(kind="kernel", case=case, dtype=dtype, flops=made.flops, bytes=made.bytes, seconds=best)


def test_limits_after(record: Callable[..., None], seconds: float) -> None:
    measure_limits(record, seconds)
