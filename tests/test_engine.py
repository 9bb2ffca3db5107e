"""The engine's own parts: which positions belong to which sample, and what it refuses."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradfast
from gradfast import reference
from gradfast.engine.book import book_of
from gradfast.engine.session import Session
from gradfast.errors import ModelError
from gradfast.record.layout import Layout, agree, find, sample_codes
from gradfast.rules import rule_for

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [2, 3, 4, 16, 21, 64])
def test_no_code_contains_another(batch: int) -> None:
    codes = sample_codes(batch, CPU).t()
    assert codes.shape[0] == batch
    for a in range(batch):
        for b in range(batch):
            assert a == b or bool((codes[a] & ~codes[b]).any())


@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (1, 4), (4, 1), (2, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_digit_is_read_off_the_zeros(outer: int, inner: int, axis: int) -> None:
    batch = 5
    codes = sample_codes(batch, CPU)
    sample = torch.arange(outer * batch * inner) // inner % batch
    probe = torch.rand(codes.shape[0], sample.numel(), 7) * codes[:, sample, None]
    assert find(probe.transpose(1, 2) if axis else probe, batch, codes) == [Layout(axis, inner)]


def test_positions_of_one_sample_only_decide_too() -> None:
    # Sequence first, and all but the last token dead: the samples sit side by side at the end.
    batch, tokens = 3, 5
    codes = sample_codes(batch, CPU)
    probe = torch.zeros(codes.shape[0], tokens, batch)
    probe[:, -1] = codes.float()
    assert find(probe.flatten(1), batch, codes) == [Layout(0, 1)]


def test_mixed_samples_have_no_layout_and_a_dead_probe_leaves_all_open() -> None:
    codes = sample_codes(4, CPU)
    mixed = (codes.float() @ torch.rand(4, 8)).clamp_min(1e-3)
    assert find(mixed, 4, codes) == []
    assert find(torch.zeros(codes.shape[0], 8), 4, codes) == [Layout(0, 2), Layout(0, 1)]
    assert find(torch.zeros(codes.shape[0], 4, 0), 4, codes) == [Layout(1, 1)]


def test_open_layouts_agree_where_they_name_the_same_sample() -> None:
    layouts = [Layout(0, 2), Layout(0, 1)]  # samples 0 0 1 1 and 0 1 0 1
    g = torch.zeros(3, 4, 5)
    assert agree(layouts, g, 2)
    g[1, 3, 2] = g[2, 0, 4] = 1
    assert agree(layouts, g, 2)
    g[0, 1, 0] = 1
    assert not agree(layouts, g, 2)
    assert agree([Layout(0, 1), Layout(1, 1)], torch.eye(2).expand(3, 2, 2), 2)
    assert not agree([Layout(0, 1), Layout(1, 1)], torch.ones(3, 2, 2), 2)


def test_split_moves_the_digit_to_the_front() -> None:
    t = torch.arange(2 * 12 * 3).view(2, 12, 3)
    split = Layout(0, 2).split(t, 3, 1)  # 12 = outer 2, batch 3, inner 2
    assert split.shape == (2, 3, 4, 3)
    assert split[1, 2].tolist() == t[1, [4, 5, 10, 11]].tolist()


def test_a_transposed_weight_is_used_once_in_the_plan_of_one_sample() -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 4))
    gradfast.grad_norms(model, torch.randn(1, 300))
    ((_, plan),) = next(iter(book_of(model)._plans.values()))
    assert plan.uses == dict.fromkeys(dict(model.named_parameters()), 1)
    assert plan.cost.largest < 300 * 200  # a cotangent of the layers' outputs, not of a weight


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x.requires_grad_(), use_reentrant=True))


def test_reentrant_checkpoints_are_refused_not_taken_for_unused() -> None:
    with pytest.raises(ModelError, match="use_reentrant=False"):
        gradfast.grad_norms(Reentrant(), torch.randn(3, 5))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5), nn.Tanh())
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + checkpoint(self.body, x, use_reentrant=False))


def test_blocks_that_are_recomputed_give_the_same_numbers() -> None:
    model, x = Checkpointed().double(), torch.randn(3, 5, dtype=torch.float64)
    runs = []
    model.body.register_forward_pre_hook(lambda *_: runs.append(1))
    found = gradfast.grad_norms(model, x)
    assert len(runs) > 1
    assert not found.fallback
    torch.testing.assert_close(found.values, reference.grad_norms(model, x).values)


class Permuted(nn.Module):
    """Samples and positions change places, or not, without any other sign of it in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.randn(6)), nn.Linear(6, 3)
        self.axes = (0, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.permute(self.axes) * self.scale).tanh().permute(self.axes).mean(1))


def test_a_plan_does_not_outlive_the_axes_that_it_was_made_for() -> None:
    model, x = Permuted().double(), torch.randn(4, 4, 6, dtype=torch.float64)
    batch_first = gradfast.grad_norms(model, x).values
    model.axes = (1, 0, 2)
    torch.testing.assert_close(gradfast.grad_norms(model, x).values, batch_first)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(attended.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_is_recorded_as_products_and_a_softmax_on_cuda_alone(device: str) -> None:
    """Its fused kernels there take one cotangent for each query; here the session is told that it is on a GPU."""
    model = Attention()
    session = Session(model, tuple(dict(model.named_parameters())), None)
    session.device = torch.device(device)
    graph, *_ = session.record(torch.randn(2, 5, 6), slice(0, 2))
    assert graph is not None
    names = {node.name for node in graph.nodes}
    assert any("ScaledDotProduct" in name for name in names) == (device == "cpu")
    assert ({"SafeSoftmaxBackward0", "BmmBackward0"} <= names) == (device == "cuda")
    assert type(rule_for("SafeSoftmaxBackward0")) is type(rule_for("SoftmaxBackward0"))
