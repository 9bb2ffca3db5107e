"""linear_* and conv_* of csrc/cuda, executed on the CPU, against plain autograd in float64."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ops import truth
from torch import Tensor

from .closeness import TF32_TOLERANCE, TOLERANCE, assert_close, gram_scale

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Conv:
    """One convolution and its operands' sizes."""

    channels: tuple[int, int]
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int = 0
    frames: int = 1
    rows: int = 3
    samples: int = 2
    channels_last: bool = True

    def arguments(self) -> list[Any]:
        dims = len(self.image)
        spread = [[v] * dims for v in (self.stride, self.padding, self.dilation)]
        return [list(self.kernel), *spread, self.groups, self.transposed, self.frames]

    def output(self) -> list[int]:
        pairs = list(zip(self.image, self.kernel, strict=True))
        if self.transposed:
            return [
                (n - 1) * self.stride - 2 * self.padding + self.dilation * (k - 1) + 1 + self.output_padding
                for n, k in pairs
            ]
        return [(n + 2 * self.padding - self.dilation * (k - 1) - 1) // self.stride + 1 for n, k in pairs]

    def operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        cin, cout = self.channels
        images = self.samples * self.frames
        x = torch.randn(images, cin, *self.image).to(dtype)
        g = torch.randn(self.rows, images, cout, *self.output()).to(dtype)
        if self.channels_last:
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            g = g.movedim(2, -1).contiguous().movedim(-1, 2)
        weight = (cin, cout // self.groups) if self.transposed else (cout, cin // self.groups)
        return x, g, torch.randn(*weight, *self.kernel).to(dtype)


CONVS = {
    "stem": Conv((3, 10), (9, 9), (3, 3), stride=2, padding=1),
    "3x3": Conv((16, 24), (7, 6), (3, 3), padding=1),
    "3x3-contiguous": Conv((16, 24), (7, 6), (3, 3), padding=1, channels_last=False),
    "1x1": Conv((24, 72), (5, 5), (1, 1)),
    "1x1-stride": Conv((8, 16), (7, 7), (1, 1), stride=2),
    "wide": Conv((72, 80), (9, 9), (3, 3), padding=1, rows=2, samples=1),
    "dilated": Conv((8, 8), (9, 8), (3, 2), dilation=2, padding=2),
    "groups": Conv((16, 24), (6, 6), (3, 3), groups=2, padding=1),
    "pieces": Conv(
        (20, 36), (6, 5), (3, 3), padding=1
    ),  # no whole 16-byte chunks of 16-bit channels, but pairs
    "odd": Conv((7, 33), (6, 5), (3, 3), padding=1),
    "wide-groups": Conv((40, 72), (5, 5), (3, 3), groups=2, padding=1),
    "depthwise": Conv((12, 12), (6, 6), (3, 3), groups=12, padding=1),
    "depthwise-odd": Conv((11, 11), (6, 5), (3, 3), groups=11, stride=2, padding=1, rows=5),
    "depthwise-5x5": Conv((70, 70), (9, 7), (5, 5), groups=70, padding=2, frames=2),
    "depthwise-contiguous": Conv((6, 6), (7, 7), (3, 3), groups=6, dilation=2, channels_last=False),
    "depthwise-multiplier": Conv((6, 18), (6, 6), (3, 3), groups=6, padding=1),
    "depthwise-transposed": Conv((8, 8), (5, 4), (3, 3), groups=8, stride=2, padding=1, transposed=True),
    "narrow-groups": Conv((16, 32), (6, 6), (3, 3), groups=8, padding=1),
    "depthwise-1d": Conv((10, 10), (40,), (4,), groups=10, padding=3),
    "one-channel": Conv((1, 6), (9, 9), (5, 5), rows=9),
    "1d": Conv((8, 16), (19,), (5,), stride=3, padding=2),
    "3d": Conv((4, 6), (4, 5, 3), (2, 3, 2), padding=1),
    "frames": Conv((8, 8), (5, 5), (3, 3), padding=1, frames=3),
    "transposed": Conv((8, 16), (4, 5), (3, 3), stride=2, padding=1, output_padding=1, transposed=True),
    "transposed-groups": Conv((8, 12), (4, 4), (2, 3), groups=2, dilation=2, frames=2, transposed=True),
}
# (rows, samples, T, D, O): odd sizes, tails, one and several tiles
LINEARS = [
    (3, 2, 5, 7, 6),
    (2, 2, 70, 72, 136),
    (5, 1, 33, 24, 16),
    (10, 2, 1, 40, 17),
    (17, 1, 9, 8, 8),
    (1, 1, 130, 16, 8),
    (3, 2, 40, 100, 66),
]


def linear_operands(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    rows, samples, t, d, o = sizes
    return (
        torch.randn(samples, t, d).to(dtype),
        torch.randn(rows, samples, t, o).to(dtype),
        torch.randn(o, d).to(dtype),
    )


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(False)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def tf32(exact: None) -> None:
    allow_tf32(True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", LINEARS, ids=str)
def test_linear(emulated: types.ModuleType, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    x, g, ref = linear_operands(sizes, dtype)
    grads = truth.linear(x, g)
    squares, products = truth.sqnorm(grads), truth.gram(grads)
    for form in ["auto", "direct", "gram", *(["rank_one"] if sizes[2] == 1 else [])]:
        assert_close(emulated.linear_sqnorm(x, g, form), squares, TOLERANCE[dtype])
    scale = squares.sqrt() * ref.double().norm()
    assert_close(emulated.linear_dot(x, g, ref), truth.dot(grads, ref), TOLERANCE[dtype], scale)
    assert_close(emulated.linear_gram(x, g), products, TOLERANCE[dtype], gram_scale(products))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVS)
def test_conv(emulated: types.ModuleType, name: str, dtype: torch.dtype) -> None:
    conv = CONVS[name]
    x, g, ref = conv.operands(dtype)
    arguments = conv.arguments()
    grads = truth.conv(x, g, *arguments)
    squares, products = truth.sqnorm(grads), truth.gram(grads)
    pixel_gram = ["pixel_gram"] if conv.stride == 1 and not conv.transposed else []
    for form in ["auto", "direct", "gram", *pixel_gram]:
        assert_close(emulated.conv_sqnorm(x, g, *arguments, form), squares, TOLERANCE[dtype])
    scale = squares.sqrt() * ref.double().norm()
    assert_close(emulated.conv_dot(x, g, ref, *arguments), truth.dot(grads, ref), TOLERANCE[dtype], scale)
    assert_close(emulated.conv_gram(x, g, *arguments), products, TOLERANCE[dtype], gram_scale(products))


@pytest.mark.usefixtures("schedule")
def test_depthwise_in_every_schedule_and_split(
    emulated: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADFAST_EMULATOR_MULTIPROCESSORS", "20")  # enough to split the positions
    conv = Conv((10, 10), (24, 24), (3, 3), groups=10, padding=1, rows=6)
    x, g, ref = conv.operands(torch.bfloat16)
    arguments = conv.arguments()
    grads = truth.conv(x, g, *arguments)
    squares = truth.sqnorm(grads)
    assert_close(emulated.conv_sqnorm(x, g, *arguments), squares, TOLERANCE[torch.bfloat16])
    dots = emulated.conv_dot(x, g, ref, *arguments)
    assert_close(dots, truth.dot(grads, ref), TOLERANCE[torch.bfloat16], squares.sqrt() * ref.double().norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["direct", "gram"])
@pytest.mark.usefixtures("schedule")
def test_every_schedule_gives_the_same(emulated: types.ModuleType, form: str, dtype: torch.dtype) -> None:
    x, g, _ = linear_operands((4, 1, 140, 72, 16), dtype)  # more steps than stages
    assert_close(emulated.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), TOLERANCE[dtype])
    x, g, _ = linear_operands((6, 1, 20, 8, 16), dtype)  # the shared operand stays
    assert_close(emulated.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_tile(emulated: types.ModuleType, dtype: torch.dtype) -> None:
    x, g, _ = linear_operands((2, 2, 40, 256, 120), dtype)
    assert_close(emulated.linear_sqnorm(x, g, "direct"), truth.sqnorm(truth.linear(x, g)), TOLERANCE[dtype])


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("sizes", [(3, 2, 5, 23, 30), (2, 2, 70, 72, 136), (2, 2, 40, 256, 120)], ids=str)
def test_tf32_linear(emulated: types.ModuleType, sizes: tuple[int, ...]) -> None:
    x, g, ref = linear_operands(sizes, torch.float32)
    grads = truth.linear(x, g)
    squares, products = truth.sqnorm(grads), truth.gram(grads)
    for form in ("direct", "gram"):
        error = (emulated.linear_sqnorm(x, g, form).double() - squares).abs() / squares
        assert 1e-7 < error.max() < TF32_TOLERANCE  # rounded to ten bits, unlike float32
    assert_close(
        emulated.linear_dot(x, g, ref),
        truth.dot(grads, ref),
        TF32_TOLERANCE,
        squares.sqrt() * ref.double().norm(),
    )
    assert_close(emulated.linear_gram(x, g), products, TF32_TOLERANCE, gram_scale(products))


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("name", ["stem", "3x3", "groups", "transposed"])
def test_tf32_conv(emulated: types.ModuleType, name: str) -> None:
    x, g, _ = CONVS[name].operands(torch.float32)
    arguments = CONVS[name].arguments()
    squares = truth.sqnorm(truth.conv(x, g, *arguments))
    for form in ("direct", "gram"):
        assert_close(emulated.conv_sqnorm(x, g, *arguments, form), squares, TF32_TOLERANCE)


def test_operands_that_tf32_represents_are_exact(emulated: types.ModuleType, tf32: None) -> None:
    x, g, _ = (t.bfloat16().float() for t in linear_operands((2, 2, 20, 40, 24), torch.float32))
    for form in ("direct", "gram"):
        assert_close(
            emulated.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), TOLERANCE[torch.float32]
        )


@pytest.mark.parametrize("form", ["direct", "gram", "pixel_gram"])
def test_deterministic_mode_sums_in_a_fixed_order(emulated: types.ModuleType, form: str) -> None:
    conv = Conv((16, 72), (12, 12), (3, 3), padding=1)
    x, g, ref = conv.operands(torch.float32)
    arguments = conv.arguments()
    grads = truth.conv(x, g, *arguments)
    torch.use_deterministic_algorithms(True)
    try:
        actual = emulated.conv_sqnorm(x, g, *arguments, form)
        products, dots = emulated.conv_gram(x, g, *arguments), emulated.conv_dot(x, g, ref, *arguments)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(actual, truth.sqnorm(grads), TOLERANCE[torch.float32])
    assert_close(products, truth.gram(grads), TOLERANCE[torch.float32], gram_scale(truth.gram(grads)))
    assert_close(
        dots,
        truth.dot(grads, ref),
        TOLERANCE[torch.float32],
        truth.sqnorm(grads).sqrt() * ref.double().norm(),
    )


@pytest.mark.parametrize("form", ["direct", "gram"])
def test_grids_too_large_for_one_launch_are_split(
    emulated: types.ModuleType, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("GRADFAST_EMULATOR_MOST_BLOCKS", "3")
    x, g, _ = linear_operands((3, 2, 70, 72, 136), torch.bfloat16)
    assert_close(
        emulated.linear_sqnorm(x, g, form), truth.sqnorm(truth.linear(x, g)), TOLERANCE[torch.bfloat16]
    )


@pytest.mark.parametrize("multiprocessors", ["1", "4", "200"])
def test_the_number_of_multiprocessors_does_not_matter(
    emulated: types.ModuleType, monkeypatch: pytest.MonkeyPatch, multiprocessors: str
) -> None:
    monkeypatch.setenv("GRADFAST_EMULATOR_MULTIPROCESSORS", multiprocessors)
    x, g, _ = linear_operands((21, 2, 30, 136, 128), torch.float16)
    squares = truth.sqnorm(truth.linear(x, g))
    for form in ("auto", "direct", "gram"):
        assert_close(emulated.linear_sqnorm(x, g, form), squares, TOLERANCE[torch.float16])


@pytest.mark.parametrize(
    "sizes", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5), (2, 2, 3, 0, 5), (2, 2, 3, 4, 0)], ids=str
)
def test_nothing_is_launched_for_nothing(emulated: types.ModuleType, sizes: tuple[int, ...]) -> None:
    x, g, ref = linear_operands(sizes, torch.float32)  # the emulator refuses an empty grid
    rows, samples = sizes[:2]
    assert torch.equal(emulated.linear_sqnorm(x, g), torch.zeros(samples, rows))
    assert torch.equal(emulated.linear_dot(x, g, ref), torch.zeros(samples, rows))
    assert torch.equal(emulated.linear_gram(x, g), torch.zeros(samples, rows, rows))


def test_any_strides_and_alignment(emulated: types.ModuleType) -> None:
    x, g, _ = linear_operands((3, 2, 20, 16, 24), torch.bfloat16)
    squares = truth.sqnorm(truth.linear(x, g))
    strided = x.transpose(0, 2).contiguous().transpose(0, 2), g.transpose(1, 3).contiguous().transpose(1, 3)
    assert_close(emulated.linear_sqnorm(*strided), squares, TOLERANCE[torch.bfloat16])
    odd = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape) for t in (x, g)]  # 2 bytes past 16
    assert all(t.data_ptr() % 16 == 2 for t in odd)
    for form in ("direct", "gram"):
        assert_close(emulated.linear_sqnorm(*odd, form), squares, TOLERANCE[torch.bfloat16])
    apart = [torch.cat([t.new_zeros(2), t.flatten()])[2:].view(t.shape) for t in (x, g)]  # 4 bytes past 16
    for form in ("direct", "gram"):
        assert_close(emulated.linear_sqnorm(*apart, form), squares, TOLERANCE[torch.bfloat16])
    expanded = g[:1].expand(3, -1, -1, -1)
    assert_close(emulated.linear_sqnorm(x, expanded), squares[:, :1].expand(-1, 3), TOLERANCE[torch.bfloat16])


def test_errors_say_what_was_wanted(emulated: types.ModuleType) -> None:
    x, g, ref = linear_operands((3, 2, 5, 7, 6), torch.float32)
    with pytest.raises(ValueError, match="wanted T = 1"):
        emulated.linear_sqnorm(x, g, "rank_one")
    with pytest.raises(TypeError, match="g has dtype"):
        emulated.linear_sqnorm(x, g.double())
    with pytest.raises(ValueError, match="ref has shape"):
        emulated.linear_dot(x, g, ref.T)
