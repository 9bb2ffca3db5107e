"""The sources: what they read of a model, on models of several kinds, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detector_samples import batches
from detector_samples import network as small
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor, nn

from gradfast.detectors.sources import (
    SOURCES,
    Source,
    SourceColumns,
    Tap,
    fit_sources,
    make_source,
    run_sources,
)
from gradfast.detectors.sources.reservoir import Reservoir
from gradfast.errors import InputError, ModelError


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


def test_sources_that_read_other_places_are_fitted_together_each_to_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*small()[:-1], nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
    places = ({"head": "6"}, {}, {})
    together = [
        make_source(name, model, **place)
        for name, place in zip(("mahalanobis", "mahalanobis_p", "vim"), places, strict=True)
    ]
    fit_sources(together, batches(200, seed=1))
    x, _ = batches()[0]
    for source, place in zip(together, places, strict=True):
        alone = make_source(source.name, model, **place).fit(batches(200, seed=1))
        torch.testing.assert_close(source.columns(x), alone.columns(x))


def test_sources_of_one_name_are_refused_in_one_run() -> None:
    model = small()
    steps = [make_source("odin", model, eps=eps) for eps in (0.0, 0.1)]
    with pytest.raises(InputError, match="sources: got 2 called odin"):
        run_sources(steps, batches())


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
    with pytest.raises(InputError, match="std: got"):
        make_source("odin", small(), std=(0.2, 0.0, 0.2))
    with pytest.raises(InputError, match="std: got 2 numbers"):
        make_source("odin", small(), std=(0.2, 0.2)).columns(batches()[0][0])
    with pytest.raises(InputError, match="k: got 7"):
        make_source("knn", small(), k=7, references=7)


def fitted(name: str, model: nn.Module, n: int = 200, **settings: Any) -> Source:
    if name in ("knn", "lid"):
        settings = {"k": 5, **settings}
    return make_source(name, model, **settings).fit(batches(n, seed=1))


def features(model: nn.Sequential, x: Tensor) -> Tensor:
    return model[:6](x).detach()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_gives_a_row_of_named_columns_per_sample(name: str) -> None:
    source = fitted(name, small())
    x = batches(seed=5)[0][0]
    columns = source.columns(x)
    assert columns.shape == (10, len(source.names))
    assert columns.dtype == torch.float32
    assert columns.isfinite().all()
    torch.testing.assert_close(source.columns(x[4:5]), columns[4:5], rtol=1e-4, atol=1e-5)
    x[2] = torch.nan
    spoiled = source.columns(x)
    assert spoiled[2].isnan().all()
    torch.testing.assert_close(
        np.delete(spoiled.numpy(), 2, 0), np.delete(columns.numpy(), 2, 0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_columns_are_the_same_where_gradients_are_off(name: str, without: Callable[[], Any]) -> None:
    source = fitted(name, small())
    x, _ = batches()[0]
    with without():
        found = source.columns(x)
    torch.testing.assert_close(found, source.columns(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fitted(name, model).columns(batches()[0][0])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if SOURCES[name].needs_fit))
def test_fitting_needs_samples_of_known_classes(name: str) -> None:
    model = small()
    source = make_source(name, model)
    with pytest.raises(InputError, match=f"{name}: not fitted yet"):
        source.columns(batches()[0][0])
    with pytest.raises(InputError, match="no samples"):
        source.fit([])
    x, y = batches()[0]
    for bad, message in (
        ([(x, y + 5)], "got label"), ([(x, y[:3])], r"labels of shape \[3\]"), ([x], "wanted pairs"),
        ([(x * torch.nan, y)], "not finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            source.fit(bad)  # type: ignore[arg-type]
    if name in ("knn", "lid"):
        with pytest.raises(InputError, match="wanted more than k"):
            source.fit([(x, y)])


@pytest.mark.parametrize("name", ["mahalanobis_fe", "lid", "vim", "knn"])
def test_fingerprint_tells_models_settings_and_training_samples_apart(name: str) -> None:
    model = small()
    same = fitted(name, model).fingerprint()
    assert fitted(name, model).fingerprint() == same
    others = [fitted(name, small(1)), fitted(name, model, n=100)]
    if name in ("knn", "lid"):
        others.append(fitted(name, model, k=4))
    assert len({same, *(other.fingerprint() for other in others)}) == 1 + len(others)


def test_gradnorm_is_the_norm_of_the_gradient() -> None:
    model, (x, _) = small(), batches()[0]
    expected = []
    for sample in x:
        z = model(sample[None]) / 2.0
        loss = -z.log_softmax(1).mean()  # KL(uniform || softmax), up to a constant
        (gradient,) = torch.autograd.grad(loss, [model[6].weight])
        expected.append(-gradient.abs().sum())
    scores = make_source("gradnorm", model, temperature=2.0).columns(x)[:, 0]
    torch.testing.assert_close(scores, torch.stack(expected))


class TestMahalanobis:
    def test_is_the_distance_to_the_nearest_mean_under_the_shared_covariance(self) -> None:
        model = small()
        source = fitted("mahalanobis", model)
        f = torch.cat([features(model, x) for x, _ in batches(200, seed=1)]).double().numpy()
        y = torch.cat([y for _, y in batches(200, seed=1)]).numpy()
        means = np.stack([f[y == c].mean(0) for c in range(5)])
        precision = np.linalg.pinv(EmpiricalCovariance(assume_centered=True).fit(f - means[y]).covariance_)
        test = features(model, batches()[0][0]).double().numpy()
        d = test[:, None] - means
        expected = np.einsum("bkd,de,bke->bk", d, precision, d).min(1) / 2
        np.testing.assert_allclose(source.columns(batches()[0][0])[:, 0], expected, rtol=1e-4)

    @pytest.mark.parametrize("name", ["mahalanobis_p", "mahalanobis_p_fe"])
    def test_preprocessing_steps_towards_the_nearest_mean(self, name: str) -> None:
        model, (x, _) = small(), batches()[0]
        plain, moved = fitted(name, model, eps=0.0), fitted(name, model, eps=0.001, std=(0.5, 1.0, 2.0))
        assert (moved.columns(x) < plain.columns(x)).float().mean() > 0.9
        # By hand, the first layer's distance as a function of the input.
        step = torch.autograd.functional.jacobian(lambda v: plain_distance(plain, model, v).sum(), x).sign()
        by_hand = plain_distance(plain, model, x - 0.001 * step / torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1))
        torch.testing.assert_close(moved.columns(x)[:, 0], by_hand.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain.columns(x)[:, 0], plain_distance(plain, model, x).float())

    def test_unknown_labels_count_as_predictions(self) -> None:
        model = small()
        predicted = [(x, model(x).argmax(1)) for x, _ in batches(200)]
        unknown = [(x, torch.full_like(y, -1)) for x, y in predicted]
        one, other = (
            make_source("mahalanobis", model).fit(b).columns(predicted[0][0]) for b in (predicted, unknown)
        )
        torch.testing.assert_close(one, other)


def plain_distance(source: Source, model: nn.Sequential, x: Tensor) -> Tensor:
    state = source.state()
    f = (model[:1](x).mean((2, 3)) if "fe" in source.name else model[:6](x)).double()
    white = f @ state["0.whitening"]
    return (white[:, None] - state["0.centres"]).square().sum(2).amin(1) / 2


def test_lid_is_the_maximum_likelihood_estimate() -> None:
    model = small()
    source = fitted("lid", model, k=7)
    held = torch.cat([model[:3](x).mean((2, 3)).detach() for x, _ in batches(200, seed=1)])
    x = batches()[0][0]
    r = torch.cdist(model[:3](x).mean((2, 3)).detach().double(), held.double()).sort(1).values[:, :7]
    expected = -1 / (r / r[:, -1:]).log().mean(1)
    torch.testing.assert_close(source.columns(x)[:, 1], expected.float(), rtol=1e-3, atol=1e-3)
    # A training sample is not its own neighbour, and a set of one dimension has a dimension of about one.
    assert source.columns(batches(200, seed=1)[0][0]).isfinite().all()


def test_references_are_a_sample_of_the_whole_stream() -> None:
    reservoir = Reservoir(50, seed=0)
    for start in range(0, 1000, 100):
        reservoir.add(torch.arange(start, start + 100.0))
    (rows,) = reservoir.rows()
    assert len(rows.unique()) == 50
    assert 350 < rows.mean() < 650
    again = Reservoir(50, seed=0)
    again.add(torch.arange(1000.0))
    torch.testing.assert_close(again.rows()[0], rows)  # how the stream was cut does not matter


class TestAgainstPytorchOod:
    """On the same features, the scores of pytorch-ood's own implementations, up to scale and rounding."""

    def test_scores_agree(self) -> None:
        po = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not installed")
        model, std = small(), [0.5, 1.0, 2.0]
        model[2].weight.data *= 30  # their Mahalanobis adds 1e-6 to the covariance, which must not show
        z = torch.cat([features(model, x) for x, _ in batches(200, seed=1)])
        y = torch.cat([y for _, y in batches(200, seed=1)])
        encoder, head = model[:6], model[6]
        theirs = {
            "max_softmax": po.MaxSoftmax(model),
            "energy": po.EnergyBased(model),
            "odin": po.ODIN(model, norm_std=std),
            "gradnorm": po.GradNorm(model, param_filter=lambda name: name == "6.weight"),
            "mahalanobis": po.Mahalanobis(encoder).fit_features(z, y),
            "mahalanobis_p": po.MahalanobisODIN(encoder, eps=0.0014, norm_std=std).fit_features(z, y),
            "knn": po.KNN(encoder, k=5).fit_features(z, y),
            "vim": po.ViM(encoder, 3, head.weight, head.bias).fit_features(z, y),
        }
        x = torch.cat([x for x, _ in batches(60, seed=7)])
        for name, detector in theirs.items():
            settings = {"std": std} if SOURCES[name].record else {}
            ours = fitted(name, model, **settings).columns(x)[:, 0]
            expected = detector.predict(x.clone()).detach().float()
            if name in ("max_softmax", "odin"):
                expected = -expected.neg().log()
            if name.startswith("mahalanobis"):
                expected *= 200  # their covariance is not divided by n
            tolerance = 2e-3 if name == "odin" else 1e-3  # their ODIN rounds in float32
            torch.testing.assert_close(
                ours, expected, rtol=tolerance, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
