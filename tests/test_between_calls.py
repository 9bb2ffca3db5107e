"""Models whose graph, order of samples or settings change from call to call, and what a call leaves behind in a model."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from torch import Tensor, nn

import gradfast
from gradfast import HookWarning, ModelError, reference
from gradfast.engine.book import MOST_PLANS, book_of
from gradfast.engine.decide import make_plan

DOUBLE = torch.float64


class Written(nn.Module):
    """A model as a function of itself and its inputs."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)
        self.double()

    def forward(self, *x: Tensor) -> Tensor:
        return self.run(self, *x)


def check(model: nn.Module, x: Any, **options: Any) -> None:
    found = gradfast.grad_norms(model, x, **options)
    truth = reference.grad_norms(model, x)
    assert_close(found.values, truth.values, found.layers, 1e-9)


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ---- plans that must not be taken for another call


class OwnNorm(nn.Module):
    """BatchNorm's function in a module that nobody knows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels))
        self.register_buffer("mean", torch.randn(channels))
        self.register_buffer("var", torch.rand(channels) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, self.training)


def test_statistics_of_the_batch_are_seen_in_a_later_call() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), OwnNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    x = samples(3, 3, 6, 6)
    check(model.eval(), x)
    model.train()
    with pytest.raises(ModelError, match="mixes its samples"):
        gradfast.grad_norms(model, x)
    check(model.eval(), x)


def test_samples_that_are_sorted_anew_in_each_call() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return m.head(m.a(x[order]).tanh()[order.argsort()])

    model = Written(run, a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    x = samples(4, 5)
    x = x[x[:, 0].argsort()]
    check(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradfast.FallbackWarning)
        check(model, x[[2, 3, 0, 1]])
        check(model, x[[1, 0, 3, 2]])
    check(model, x)


def test_samples_that_are_selected_in_another_order() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        order = x[:, 0].argsort().tolist()
        h = m.a(torch.stack([x[i] for i in order])).tanh()
        return m.head(torch.stack([h[order.index(i)] for i in range(len(order))]))

    model = Written(run, a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    x = samples(4, 5)
    x = x[x[:, 0].argsort()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradfast.FallbackWarning)
        check(model, x)
        check(model, x[[2, 3, 0, 1]])


def by_owner(m: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the tokens that count, all samples' in one list; whose they are; and the empty result."""
    h = m.a(m.e(ids[mask])).tanh()
    return h, torch.arange(len(ids)).repeat_interleave(mask.sum(1)), torch.zeros(len(ids), 5, dtype=DOUBLE)


def scatter_reduce(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
    h, owner, out = by_owner(m, ids, mask)
    return m.head(out.scatter_reduce(0, owner[:, None].expand_as(h), h, "sum"))


def membership(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
    h, owner, _out = by_owner(m, ids, mask)
    return m.head((owner == torch.arange(len(ids))[:, None]).to(h) @ h)


def sparse_membership(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
    h, owner, _ = by_owner(m, ids, mask)
    return m.head((owner == torch.arange(len(ids))[:, None]).to(h).to_sparse() @ h)


def cumulated(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
    h, _, out = by_owner(m, ids, mask)
    sums = torch.cat([out[:1], h.cumsum(0)])
    end = mask.sum(1).cumsum(0)
    return m.head(sums[end] - sums[end - mask.sum(1)])


def segments(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
    h, _, _ = by_owner(m, ids, mask)
    return m.head(torch.segment_reduce(h, "sum", lengths=mask.sum(1)))


@pytest.mark.parametrize("run", [scatter_reduce, membership, sparse_membership, cumulated, segments])
def test_packed_tokens_of_which_each_batch_has_others(run: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = Written(run, e=nn.Embedding(9, 5), a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    ids = torch.arange(6).view(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradfast.FallbackWarning)
        for mask in ([[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]):
            check(model, (ids, torch.tensor(mask).bool()))


def test_a_position_of_each_sample_needs_no_new_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[int] = []
    make = make_plan

    def counted(*args: Any) -> Any:
        plans.append(1)
        return make(*args)

    monkeypatch.setattr("gradfast.engine.run.make_plan", counted)
    model = Written(
        lambda m, x, at: m.head(m.a(x).tanh()[torch.arange(len(x)), at]),
        a=nn.Linear(5, 5),
        head=nn.Linear(5, 4),
    )
    for seed in range(4):  # lengths that are multiples of the batch, too
        at = torch.randint(8, (4,), generator=torch.Generator().manual_seed(seed))
        check(model, (samples(4, 8, 5, seed=seed), at))
    assert len(plans) < 4


def test_layers_that_change_places() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = (m.a, m.b) if x.sum() > 0 else (m.b, m.a)
        return m.head(b(a(a(x).tanh()).tanh()))

    model = Written(run, a=nn.Linear(5, 5), b=nn.Linear(5, 5), head=nn.Linear(5, 4))
    check(model, samples(3, 5).abs())
    check(model, -samples(3, 5).abs())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = 1.0
        self.c, self.d = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.bn, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x)
        h = torch.add(self.bn(self.d(h)), h, alpha=self.alpha).relu()
        return self.head(h.mean((2, 3)))


def test_a_residual_s_factor_that_changes() -> None:
    model = Residual().double().eval()
    x = samples(3, 3, 6, 6)
    check(model, x)
    model.alpha = 0.25
    check(model, x)


class Text(nn.Module):
    """Sequence first, the last token's position pooled, as CLIP's text tower."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.a = nn.Embedding(20, 6), nn.Linear(6, 6)
        self.ln, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.e(ids).transpose(0, 1)
        h = h + self.a(self.ln(h)).tanh()
        return self.head(h.transpose(0, 1)[torch.arange(len(ids)), ids.argmax(1)])


def text(*end: int) -> Tensor:
    ids = torch.randint(19, (len(end), 8), generator=torch.Generator().manual_seed(sum(end)))
    ids[torch.arange(len(end)), torch.tensor(end)] = 19
    return ids


@pytest.mark.parametrize("budget", [None, "1MB"])
def test_positions_that_one_batch_leaves_open(budget: str | None) -> None:
    torch.manual_seed(0)
    model = Text().double()
    for ends in [(0, 1), (0, 0), (7, 7), (3, 1, 2, 0), (1, 1, 1, 1), (0, 2, 4, 6)]:
        check(model, text(*ends), memory_budget=budget)
        check(Text().double(), text(*ends), memory_budget=budget)


def test_experts_of_which_some_samples_see_none() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        tokens = m.a(x).flatten(0, 1)
        of = m.gate(tokens).argmax(-1)
        y = torch.zeros_like(tokens)
        for i, expert in enumerate((m.first, m.second)):
            rows = (of == i).nonzero()[:, 0]
            y = y.index_add(0, rows, expert(tokens[rows]))
        return m.head(y.view_as(x).tanh().mean(1))

    torch.manual_seed(0)
    names = ("a", "first", "second", "head")
    model = Written(run, gate=nn.Linear(6, 2), **{n: nn.Linear(6, 6) for n in names})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradfast.FallbackWarning)
        for seed in range(12):
            x = samples(1 + seed % 3, 3, 6, seed=seed)
            check(model, x)


def test_no_positions_at_all() -> None:
    model = Written(
        lambda m, x: m.head(x.mean(1)) + m.a(x[:, :0]).sum(1), a=nn.Linear(5, 4), head=nn.Linear(5, 4)
    )
    check(model, samples(1, 3, 5))
    check(model, samples(3, 3, 5))


def test_the_mean_over_the_batch_is_refused_whatever_the_budget() -> None:
    model = Written(
        lambda m, x: m.head((t := m.a(x).tanh()) - t.mean(0, keepdim=True)),
        a=nn.Linear(5, 5),
        head=nn.Linear(5, 4),
    )
    for budget in (None, "1MB", "30KB"):
        with pytest.raises(ModelError, match="depend on the other samples"):
            gradfast.grad_norms(model, samples(20, 5), memory_budget=budget)


def test_plans_of_many_lengths_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_PLANS >= 100
    monkeypatch.setattr("gradfast.engine.book.MOST_PLANS", 3)
    model = Written(lambda m, x: m.head(m.a(x).tanh().mean(1)), a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    for length in (2, 3, 4, 5, 6, 2):
        check(model, samples(3, length, 5))
    assert [len(plans) for plans in book_of(model)._plans.values()] == [3]


# ---- models that are particular about what they are given


def test_views_of_images() -> None:
    model = Written(lambda m, x: m.head(x.view(len(x), -1)), head=nn.Linear(108, 4))
    check(model, samples(3, 3, 6, 6))
    model = Written(
        lambda m, x: m.head(m.c(x).relu().view(-1, 64)), c=nn.Conv2d(3, 4, 3), head=nn.Linear(64, 4)
    )
    x = samples(3, 3, 6, 6)
    check(model, x)
    assert not book_of(model).channels_last
    check(model, x, memory_budget="1MB")


def test_an_operation_in_place_on_the_input() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 4)).double()
    x = samples(3, 5)
    before = x.clone()
    found = gradfast.grad_norms(model, x)
    assert torch.equal(x, before)
    gradfast.grad_norms(model.float(), x.float(), dtype=torch.bfloat16)
    truth = reference.grad_norms(model.double(), before.clone())
    assert_close(found.values, truth.values, found.layers, 1e-9)


def test_integers_that_a_model_writes_to_are_the_caller_s() -> None:
    def run(m: Any, ids: Tensor) -> Tensor:
        ids.clamp_(max=5)
        return m.head(m.e(ids).mean(1))

    ids = torch.arange(9).view(3, 3)
    gradfast.grad_norms(Written(run, e=nn.Embedding(6, 5), head=nn.Linear(5, 4)), ids)
    assert torch.equal(ids, torch.arange(9).view(3, 3))


def test_padding_with_narrow_operands_is_that_of_the_recorded_pass() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1) * 3)

    torch.manual_seed(0)
    model = Padded().eval()
    x = samples(3, 6, 8).float(), torch.arange(6).expand(3, 6) >= torch.tensor([[6], [3], [2]])
    enabled = torch.backends.mha.get_fastpath_enabled()
    found, truth = gradfast.grad_norms(model, x, dtype=torch.bfloat16), reference.grad_norms(model, x)
    assert_close(
        found.values.sum((1, 2))[:, None, None], truth.values.sum((1, 2))[:, None, None], ("all",), 0.05
    )
    assert torch.backends.mha.get_fastpath_enabled() is enabled


def test_activations_that_change_after_their_block() -> None:
    class Block(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.first, self.a, self.b = first, nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, h: Tensor) -> Tensor:
            return self.b(self.a(self.first(h)).tanh())

    class Trunk(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(32, 32), nn.Linear(32, 3)
            self.blocks = nn.ModuleList(Block(first) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            for block in self.blocks:
                h += block(h)
            return self.head(h.mean(1))

    torch.manual_seed(0)
    x = samples(2, 64, 32)
    check(Trunk(nn.ReLU()).double(), x, memory_budget=200_000)  # 131 KB with all blocks made again
    broken = Trunk(nn.Identity()).double()
    for budget in (None, 200_000):
        with pytest.raises((RuntimeError, ModelError), match=r"in.?place"):
            gradfast.grad_norms(broken, x, memory_budget=budget)


# ---- what is left behind


def test_dropout_where_samples_are_taken_alone_has_one_mask_for_all_of_a_sample() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(self.lstm(x)[0][:, -1], 0.5, training=self.training))

    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradfast.grad_norms(model.train(), x)
    lstm = [i for i, name in enumerate(found.layers) if name.startswith("lstm")]
    for b in range(2):
        nearest = torch.inf
        for bits in range(32):
            mask = torch.tensor([2.0 * (bits >> i & 1) for i in range(5)])
            h = model.lstm(x[b : b + 1])[0][:, -1] * mask
            z = model.head(h)
            of_mask = []
            for c in range(3):
                loss = F.cross_entropy(z, torch.tensor([c]))
                grads = torch.autograd.grad(loss, list(model.lstm.parameters()), retain_graph=True)
                of_mask.append(torch.stack([g.square().sum() for g in grads]))
            truth = torch.stack(of_mask)
            off = (found.values[b][:, lstm] - truth).abs().sum() / truth.sum().clamp_min(1e-12)
            nearest = min(nearest, float(off))
        assert nearest < 1e-4


def test_backward_hooks_are_named() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    model[1].register_full_backward_hook(lambda *_: None)
    with pytest.warns(HookWarning, match="Sequential: its modules have backward hooks"):
        check(model, samples(3, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once a model
        check(model, samples(3, 5))


def test_threads_take_turns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6))).double()
    x = samples(4, 6)
    truth = reference.grad_norms(model, x)
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            found = gradfast.grad_norms(model, x, layers=[name]).values[..., 0]
            if not torch.allclose(found, truth.values[..., truth.layers.index(name)], rtol=1e-9):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(f"{i}.weight",)) for i in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(p.requires_grad for p in model.parameters())


def test_a_cache_that_a_forward_pass_fills_is_filled_anew() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
            self.cache: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = self.p(torch.ones(4, dtype=DOUBLE))
            return self.head(x * self.cache)

    model = Cached().double()
    check(model, samples(3, 5))
    assert model.cache is None
    check(model, samples(3, 5))


@pytest.mark.parametrize("layout", ["csr", "meta", "nested"])
def test_buffers_that_are_no_plain_tensors(layout: str) -> None:
    model = nn.Sequential(nn.Linear(5, 3)).double()
    buffers = {
        "csr": lambda: torch.eye(3).to_sparse_csr(),
        "meta": lambda: torch.empty(3, device="meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }
    model.register_buffer("b", buffers[layout]())
    found = gradfast.grad_norms(model, samples(3, 5))
    assert found.values.isfinite().all()


def test_threads_that_share_parameters_take_turns() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6))).double()
    models = [nn.Sequential(trunk, nn.Linear(6, 3)).double() for _ in range(2)]
    x, failed = samples(4, 6), []

    def work(model: nn.Module, name: str) -> None:
        try:
            for _ in range(30):
                gradfast.grad_norms(model, x, layers=[name])
        except ModelError as error:
            failed.append(error)

    threads = [
        threading.Thread(target=work, args=(m, f"0.{i}.weight")) for i, m in zip((0, 4), models, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(p.requires_grad for p in trunk.parameters())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_in_the_middle_of_a_call_can_call() -> None:
    script = """
import os, signal, threading, torch, gradfast
from torch import nn
torch.set_num_threads(1)
inside, go = threading.Event(), threading.Event()
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 3)
    def forward(self, x):
        inside.set()
        go.wait()
        return self.a(x)
thread = threading.Thread(target=gradfast.grad_norms, args=(Slow(), torch.randn(3, 5)))
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    gradfast.grad_norms(nn.Linear(5, 3), torch.randn(3, 5))
    os._exit(0)
status = os.waitpid(child, 0)[1]
go.set()
thread.join()
print(status)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "0\n"


def test_a_floating_input_that_a_model_writes_to_is_the_caller_s() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x.data.mul_(2)
        return m.head(m.a(x).tanh())

    x = samples(20, 5)
    before = x.clone()
    model = Written(run, a=nn.Linear(5, 5), head=nn.Linear(5, 4))
    found = gradfast.grad_norms(model, x)
    assert torch.equal(x, before)
    assert torch.equal(gradfast.grad_norms(model, x, memory_budget="1MB").logits, found.logits)


def test_strides_that_a_model_reads() -> None:
    model = Written(lambda m, x: m.head(x.as_strided((len(x), 48), (x.stride(0), 1))), head=nn.Linear(48, 4))
    check(model, samples(3, 3, 4, 4))


def test_what_a_model_writes_down_is_put_back() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(5, 5), nn.Linear(5, 4)
            self.register_buffer("hidden", torch.zeros(5))
            self.register_buffer("count", torch.zeros(()))
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            self.hidden.data.add_(1)
            self.count = self.count + 1
            self.last = h
            self.new = h
            return self.head(h)

    model = Writes().double()
    counted = model.count
    gradfast.grad_norms(model, samples(3, 5))
    assert model.count is counted
    assert not model.count.any()
    assert not model.hidden.any()
    assert model.last is None
    assert not hasattr(model, "new")
    copy.deepcopy(model)
