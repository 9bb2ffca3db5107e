"""More rows than the head's input is wide: the norms from a basis of what reaches the layers behind it."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close
from torch import Tensor, nn

import gradfast
from gradfast import reference
from gradfast.engine.run import Engine
from gradfast.errors import FallbackWarning

WIDTH, CLASSES = 6, 15


class Network(nn.Module):
    """Convolution, BatchNorm, a shared layer and a head of ``WIDTH`` inputs; ``change`` makes variants."""

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.conv = nn.Conv2d(2, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES, bias=change != "no bias")
        self.scale = nn.Parameter(torch.rand(CLASSES))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        if change == "dependent":  # two inputs of the head are always used alike: W has no full rank
            with torch.no_grad():
                self.head.weight[:, 1] = self.head.weight[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x))).mean((2, 3))
        h = self.mix(torch.tanh(self.mix(h)))
        if self.change == "tied":
            h = h @ self.head.weight.t() @ self.head.weight
        z = self.head(h)
        return z * self.scale if self.change == "scaled" else z


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each sweep that went by a basis."""
    found: list[int] = []
    real = Engine._sweep_basis

    def watched(self: Engine, graph: object, plan: object, v: Tensor, q: Tensor) -> object:
        found.append(q.shape[1])
        return real(self, graph, plan, v, q)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "_sweep_basis", watched)
    return found


def check(model: nn.Module, x: Tensor, tolerance: float, **options: object) -> None:
    found = gradfast.grad_norms(model, x, **options)  # type: ignore[arg-type]
    truth = reference.grad_norms(model.double(), x.double(), **options)  # type: ignore[arg-type]
    assert found.layers == truth.layers
    assert_close(found.values, truth.values, found.layers, tolerance)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("change", ["", "no bias", "dependent"])
def test_basis_equals_autograd(sweeps: list[int], change: str, dtype: torch.dtype, batch: int) -> None:
    torch.manual_seed(0)
    model = Network(change).eval().to(dtype)
    check(model, torch.randn(batch, 2, 5, 4, dtype=dtype), 1e-10 if dtype is torch.float64 else 2e-4)
    assert sweeps
    assert set(sweeps) == {WIDTH}


@pytest.mark.parametrize("change", ["tied", "scaled"])
def test_other_heads_take_every_row(sweeps: list[int], change: str) -> None:
    torch.manual_seed(1)
    check(Network(change).eval(), torch.randn(3, 2, 5, 4), 1e-4)
    assert not sweeps


@pytest.mark.parametrize(
    ("options", "by_basis"),
    [
        ({"classes": range(12)}, True),
        ({"classes": range(11)}, False),  # too few rows to pay
        ({"classes": 14}, True),  # each sample's own
        ({"contrast": torch.rand(13, CLASSES)}, True),
        ({"contrast": torch.rand(4, 13, CLASSES), "loss": "mse"}, True),
        ({"contrast": "all-ones"}, False),
        ({"layers": ["conv", "head"]}, True),
        ({"layers": "conv.weight"}, True),
        ({"layers": "head"}, False),  # nothing lies behind
        ({"memory_budget": 20_000}, True),
        ({"memory_budget": 5_000}, False),  # which holds no sample with all rows of the basis
    ],
)
def test_when_it_is_taken(sweeps: list[int], options: dict[str, object], by_basis: bool) -> None:
    torch.manual_seed(2)
    check(Network().eval(), torch.randn(4, 2, 5, 4), 2e-4, **options)
    assert bool(sweeps) == by_basis


def test_more_targets_than_logits_go_by_a_basis_of_the_logits(sweeps: list[int]) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    check(model, torch.randn(3, 5), 1e-4, contrast=torch.rand(9, 2))
    assert set(sweeps) == {2}


def test_narrow_operands_take_every_row(sweeps: list[int]) -> None:
    torch.manual_seed(4)
    gradfast.grad_norms(Network().eval(), torch.randn(2, 2, 5, 4), dtype=torch.bfloat16)
    assert not sweeps


def test_rows_that_nearly_vanish_keep_their_digits(sweeps: list[int]) -> None:
    """A sure prediction: its own class has a cotangent of 1e-6, the others of 1."""
    torch.manual_seed(5)
    model = Network().eval()
    with torch.no_grad():
        model.head.bias[3] += 14
    check(model, torch.randn(3, 2, 5, 4), 5e-4)
    assert sweeps


def test_a_parameter_that_is_used_twice_is_joined(sweeps: list[int]) -> None:
    torch.manual_seed(6)
    check(Network().eval(), torch.randn(2, 2, 5, 4), 2e-4, layers="mix")
    assert sweeps


def test_explain_tells_of_the_basis() -> None:
    torch.manual_seed(7)
    told = gradfast.explain(Network().eval(), torch.randn(3, 2, 5, 4))
    forms = {layer.name: layer.form for layer in told.layers}
    assert forms["conv.weight"] == forms["norm.bias"] == "basis"
    assert forms["head.weight"] == "rank_one"
    assert told.rows == CLASSES
    assert told.rows_per_chunk == WIDTH
    assert all(layer.flops > 0 for layer in told.layers if layer.form == "basis")
    assert "basis" in str(told)


class NarrowTrunk(Network):
    """The layers before the head compute in bfloat16, the head in float32."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = self.mix(torch.tanh(self.norm(self.conv(x))).mean((2, 3)))
        return self.head(h.float())


def test_a_narrow_trunk_takes_every_row(sweeps: list[int]) -> None:
    torch.manual_seed(9)
    gradfast.grad_norms(NarrowTrunk().eval(), torch.randn(2, 2, 5, 4))
    assert not sweeps


class Recurrent(nn.Module):
    """An LSTM, whose samples cannot be told apart in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_samples_one_at_a_time_take_every_row(sweeps: list[int]) -> None:
    torch.manual_seed(10)
    with pytest.warns(FallbackWarning):
        check(Recurrent().eval(), torch.randn(3, 4, 3), 2e-4)
    assert not sweeps
