"""`gradfast.explain`: the plan that it tells is the one that runs, and watching changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradfast
from gradfast import _C
from gradfast.engine.explain import WatchedEngine
from gradfast.engine.run import Engine


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Conv2d(8, 24, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).eval()


class Recurrent(nn.Module):
    """An LSTM has no rule: its parameters go one sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head, self.idle = nn.LSTM(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.transpose(0, 1))[0][-1])


def test_says_form_and_flops_of_each_parameter():
    samples, rows = 3, 5
    found = gradfast.explain(small_cnn(), torch.randn(samples, 3, 16, 16))
    layers = {layer.name: layer for layer in found.layers}
    assert list(layers) == [n for n, _ in small_cnn().named_parameters()]
    first = layers["0.weight"]  # 256 positions, 27 x 8 weights
    assert (first.form, first.operation) == ("direct", "Convolution")
    assert first.flops == 2 * rows * samples * 8 * 27 * 256
    assert first.bytes == 4 * samples * (3 * 256 + rows * 8 * 256)
    assert layers["1.weight"].form == layers["1.bias"].form == "fused"
    second = layers["4.weight"]  # 4 positions, 72 x 24 weights
    assert second.form == "gram"
    assert second.flops == samples * (72 + rows * 24) * 4 * 4
    assert layers["7.weight"].form in ("gram", "rank_one")
    assert layers["7.bias"].form == "sum"
    assert not any(layer.fallback for layer in found.layers)
    assert (found.samples, found.rows) == (samples, rows)


def test_form_is_the_kernels_own_choice():
    """The form printed is the one that form="auto" computes bit for bit."""
    x, g = torch.randn(2, 9, 30), torch.randn(4, 2, 9, 20)
    chosen, flops = _C.weight_norm_forms([2, 30, 9], [4, 2, 20, 9], [1], [1], [0], [1], 1, False, 1)
    assert set(flops) == {"direct", "gram", "pixel_gram"}
    assert chosen in flops
    # A linear layer has no pixels apart from its positions: both Gram forms are the same there.
    form = "gram" if chosen == "pixel_gram" else chosen
    assert torch.equal(gradfast.ops.linear_sqnorm(x, g), gradfast.ops.linear_sqnorm(x, g, form))


def test_forms_refuse_what_is_no_convolution():
    with pytest.raises(ValueError, match="extent"):
        _C.weight_norm_forms([2, 3, 8], [4, 2, 5, 7], [3], [1], [1], [1], 1, False, 1)


def test_times_add_up():
    found = gradfast.explain(small_cnn(), torch.randn(3, 3, 16, 16))
    parts = sum(layer.seconds for layer in found.layers) + sum(step.seconds for step in found.steps)
    assert 0 < parts <= found.backward_seconds <= found.seconds
    assert min(step.seconds for step in found.steps) >= 0


def test_each_norm_is_taken_at_one_step():
    found = gradfast.explain(small_cnn(), torch.randn(3, 3, 16, 16))
    taken = [name for step in found.steps for name in step.parameters]
    assert sorted(taken) == sorted(layer.name for layer in found.layers)
    ways = {step.operation: step.way for step in found.steps}
    assert ways["ReluBackward0"] in ("fused", "carry")
    assert [s.way for s in found.steps if s.operation == "ConvolutionBackward0"] == ["carry", "end"]


def test_winograd_norms_come_with_the_input_gradient():
    if _C.cpu_isa() == "baseline":
        pytest.skip("no vectors here: the engine does not take Winograd's form")
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 256, 3)
    )
    found = gradfast.explain(net, torch.randn(2, 3, 16, 16))
    layers = {layer.name: layer for layer in found.layers}
    assert layers["1.weight"].form == "winograd"
    assert layers["1.weight"].flops == 2 * 3 * 4.5 * 16 * 16 * 256
    assert "winograd" in {step.way for step in found.steps}


def test_marks_fallback_and_unused():
    model = Recurrent()
    with pytest.warns(gradfast.errors.FallbackWarning):
        found = gradfast.explain(model, torch.randn(3, 6, 3))
    layers = {layer.name: layer for layer in found.layers}
    assert {n for n, layer in layers.items() if layer.fallback} == {
        n for n, _ in model.named_parameters() if n.startswith("lstm")
    }
    assert layers["idle.weight"].form == "unused"
    assert "One sample at a time: lstm.weight_ih_l0" in str(found)


def test_shows_chunks_of_a_budget():
    model, x = small_cnn(), torch.randn(6, 3, 16, 16)
    whole = gradfast.explain(model, x)
    assert whole.rows_per_chunk == 5
    budget = 2 * (whole.activation_bytes + whole.cotangent_bytes)
    tight = gradfast.explain(model, x, memory_budget=budget)
    assert tight.samples_per_chunk * tight.rows_per_chunk < 6 * 5
    assert tight.activation_bytes + tight.rows_per_chunk * tight.cotangent_bytes <= budget
    assert tight.layers[0].flops == whole.layers[0].flops  # a layer's direct form costs the same in chunks


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_watching_changes_no_number(dtype: torch.dtype | None):
    """The watched engine gives, bit for bit, what the plain one gives."""
    model, x = small_cnn(), torch.randn(3, 3, 16, 16)
    names = tuple(n for n, _ in model.named_parameters())

    def cotangents(z: Tensor, part: slice) -> Tensor:
        return F.one_hot(torch.arange(5)).to(z)[:, None, :].expand(5, len(z), 5)

    plain = Engine(model, names, gradfast.engine.collect.SquaredNorm(), autocast=dtype)
    watched = WatchedEngine(model, names, gradfast.engine.collect.SquaredNorm(), autocast=dtype)
    plain.run(x, 3, cotangents)  # the plan is made
    for ours, theirs in zip(watched.run(x, 3, cotangents), plain.run(x, 3, cotangents), strict=True):
        assert torch.equal(ours, theirs)


def test_is_data_and_prints():
    found = gradfast.explain(small_cnn(), torch.randn(2, 3, 16, 16), contrast="all-ones", layers="0.*")
    data = json.loads(json.dumps(found.as_dict()))
    assert [layer["name"] for layer in data["layers"]] == ["0.weight", "0.bias"]
    assert data["rows"] == 1
    text = str(found)
    assert "0.weight" in text
    assert "8x3x3x3" in text
    assert "2 samples, 1 rows" in text


class Separable(nn.Module):
    """A depthwise convolution, a pointwise one and a head, as MobileNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.pointwise = nn.Conv2d(32, 256, 1)
        self.head = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pointwise(self.depthwise(x)).relu().mean((2, 3)))


@pytest.fixture
def tf32() -> Iterator[Callable[[bool], None]]:
    def allow(convolutions: bool, products: bool) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield lambda allowed: allow(allowed, allowed)
    allow(*before)


@pytest.mark.parametrize(("allowed", "math"), [(False, "fp32"), (True, "tf32")])
def test_tells_the_kernels_of_cuda_without_a_gpu(allowed: bool, math: str, tf32: Callable[[bool], None]):
    tf32(allowed)
    x = torch.randn(2, 32, 24, 24)
    found = gradfast.explain(Separable(), x, device="cuda")
    kernels = {layer.name: layer.kernel for layer in found.layers}
    assert kernels["depthwise.weight"] == f"depthwise {math}"
    assert kernels["pointwise.weight"].startswith(f"direct {math} 64x64")  # two samples do not fill a device
    assert kernels["head.weight"] == f"rank_one {math}"
    assert kernels["pointwise.bias"] == "channel_sums fp32"
    assert "CUDA kernel" in str(found)
    assert "CUDA kernel" not in str(gradfast.explain(Separable(), x))


def test_a_device_that_is_not_known_is_refused():
    with pytest.raises(gradfast.errors.InputError, match="device: got 'tpu'; wanted None or 'cuda'"):
        gradfast.explain(Separable(), torch.randn(1, 32, 4, 4), device="tpu")


def test_cuda_takes_the_large_tile_where_it_fills_the_device():
    shapes = [64, 256, 1024], [10, 64, 256, 1024]
    line = [[1], [1], [0], [1], 1, False, 1]
    assert _C.cuda_weight_norm_form(*shapes, *line, "bf16", 108) == ("direct", "direct bf16 128x128")
    assert _C.cuda_weight_norm_form([1, 256, 1024], [1, 1, 256, 1024], *line, "bf16", 108)[1].endswith(
        "64x64"
    )
    assert _C.cuda_weight_norm_form([64, 512, 16], [10, 64, 512, 16], *line, "fp32", 108)[0] == "gram"
    with pytest.raises(ValueError, match="math is"):
        _C.cuda_weight_norm_form(*shapes, *line, "int8", 108)
