"""The sources: what they read of a model, on models of several kinds, and bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradfast.detectors.sources import SOURCES, SourceColumns, Tap, make_source, run_sources
from gradfast.errors import InputError, ModelError


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip


def batches(n: int = 20, size: int = 10, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, 3, 8, 8, generator=g), torch.randint(0, 5, (size,), generator=g))
        for _ in range(n // size)
    ]


class TestTap:
    def test_reads_the_input_of_the_head_and_the_stages(self) -> None:
        model, (x, _) = small(), batches()[0]
        tap = Tap(model)
        seen = tap(x)
        torch.testing.assert_close(seen.penultimate, model[:6](x))
        torch.testing.assert_close(seen.logits, model(x))
        assert tap.stages == ("0", "2")
        torch.testing.assert_close(seen.stages[1], model[:3](x).mean((2, 3)))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_input_gradients_are_each_samples_own(self) -> None:
        model, (x, _) = small(), batches()[0]
        seen = Tap(model)(x, record=True)
        whole = seen.input_gradient(seen.logits.logsumexp(1))
        alone = x[3:4].clone().requires_grad_()
        model(alone).logsumexp(1).sum().backward()
        torch.testing.assert_close(whole[3:4], alone.grad)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Tap(small(), head="9"), "head: the model has no nn.Linear called '9'"),
            (lambda: Tap(small(), stages=["conv"]), "stages: the model has no module 'conv'"),
            (lambda: Tap(small())(np.zeros(3)), "x: got"),
        ],
    )
    def test_wrong_names(self, make: Callable[[], object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            make()

    def test_models_that_do_not_fit(self) -> None:
        with pytest.raises(ModelError, match="train mode"):
            Tap(small().train())(batches()[0][0])
        headless = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        with pytest.raises(ModelError, match=r"does not end in an nn\.Linear"):
            Tap(headless)(batches()[0][0])


def test_one_forward_serves_all_sources_that_share_a_tap() -> None:
    model = small()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    tap = Tap(model)
    sources = [
        make_source(name, model, tap=tap) for name in ("max_softmax", "energy", "gradnorm", "penultimate")
    ]
    found = run_sources(sources, batches())
    assert len(calls) == 1 + 2  # one to find the head, one per batch
    for source in sources:
        alone = torch.cat([source.columns(x) for x, _ in batches()])
        np.testing.assert_allclose(found[source.name].values, alone.numpy(), rtol=1e-6)
        assert found[source.name].shape == (20, len(source.names))


def test_columns_index_and_concat() -> None:
    model = small()
    found = run_sources([make_source("penultimate", model)], batches())["penultimate"]
    again = SourceColumns.concat([found[:7], found[np.arange(7, 20)]])
    np.testing.assert_array_equal(again.values, found.values)
    assert again.settings == found.settings
    other = run_sources([make_source("penultimate", small(1))], batches())["penultimate"]
    with pytest.raises(InputError, match="of several sources"):
        SourceColumns.concat([found, other])


def test_other_names_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"no source 'enrgy'; nearest: 'energy'"):
        make_source("enrgy", small())
    with pytest.raises(InputError, match="max_softmax does not take"):
        make_source("max_softmax", small(), depth=3)
    assert set(SOURCES) >= {"max_softmax", "energy", "gradnorm", "penultimate"}
