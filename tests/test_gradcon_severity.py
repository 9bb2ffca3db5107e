"""Severity as an ordering, its grades, the contrastive loss, and the streaming threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gradfast.errors import InputError
from gradfast.gradcon import (
    ConvAutoencoder,
    GradConScorer,
    GradConTrainer,
    SeverityLabels,
    StreamScorer,
    TrainingSettings,
    rank_correlation,
    severity,
    supervised_contrastive_loss,
)
from gradfast.gradcon.stream import conformal_threshold

SIZE = (8, 8)


def bars(n: int, seed: int = 0) -> Tensor:
    """Normal images: one bright row or column each."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.05 * torch.rand(n, 1, *SIZE, generator=generator)
    for image, place in zip(x, torch.randint(0, 8, (n,), generator=generator).tolist(), strict=True):
        image[0, place] = 0.9
    return x


def noisy(x: Tensor, level: int) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(level))
    return (x + 0.1 * level * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def scorer() -> GradConScorer:
    torch.manual_seed(0)
    trainer = GradConTrainer(ConvAutoencoder(1, SIZE), bars(96), TrainingSettings(batch_size=8))
    trainer.fit(5)
    return GradConScorer(trainer.model, trainer.loss)


class TestSeverity:
    def test_is_the_named_score(self, scorer: GradConScorer) -> None:
        x = bars(4, seed=1)
        assert np.array_equal(severity(scorer, x), scorer(x).gradient)
        assert np.array_equal(severity(scorer, x, "reconstruction"), scorer(x).reconstruction)

    def test_follows_the_level_of_noise(self, scorer: GradConScorer) -> None:
        assert rank_correlation(scorer, bars(16, seed=2), noisy, score="reconstruction") > 0.5
        assert rank_correlation(scorer, bars(16, seed=2), noisy) > 0.2

    def test_unknown_score(self, scorer: GradConScorer) -> None:
        with pytest.raises(InputError, match="wanted one of reconstruction, gradient, combined"):
            severity(scorer, bars(1), "depth")
        with pytest.raises(InputError, match="no latent"):
            severity(scorer, bars(1), "latent")
        with pytest.raises(InputError, match="knows no normal images"):
            severity(scorer, bars(1), "standardised")


class TestLabels:
    def test_grades_hold_as_many_each_and_keep_the_order(self) -> None:
        values = np.random.default_rng(0).permutation(100) / 7
        labels = SeverityLabels(values, 5)
        grades = labels(values)
        assert np.bincount(grades).tolist() == [20] * 5
        assert (np.diff(grades[values.argsort()]) >= 0).all()
        assert labels([-1e9, 1e9]).tolist() == [0, 4]

    def test_equal_severities_share_a_grade_and_leave_none_empty(self) -> None:
        assert SeverityLabels([0, 1, 1, 1, 1], 2)([0, 1]).tolist() == [0, 1]
        for values, bins in (([0, 0, 0, 0, 1], 2), ([0, 0, 1, 1], 3)):
            with pytest.raises(InputError, match="one would be empty"):
                SeverityLabels(values, bins)

    @pytest.mark.parametrize(
        ("values", "bins"),
        [([1.0, 2.0], 3), ([1.0, 2.0], 1), ([1.0, np.nan], 2), ([1.0] * 9, 3), ([[1.0, 2.0]], 2)],
    )
    def test_bad_input(self, values: list[float], bins: int) -> None:
        with pytest.raises(InputError, match=r"severities|bins"):
            SeverityLabels(values, bins)


class TestContrastive:
    def test_equals_the_formula(self) -> None:
        torch.manual_seed(0)
        features, labels = torch.randn(6, 3).double(), torch.tensor([0, 1, 0, 2, 1, 0])
        unit = features / features.norm(dim=1, keepdim=True)
        rows = []
        for i in range(6):
            others = [j for j in range(6) if j != i]
            bottom = sum(torch.exp(unit[i] @ unit[j] / 0.2) for j in others)
            terms = [
                -torch.log(torch.exp(unit[i] @ unit[p] / 0.2) / bottom)
                for p in others
                if labels[p] == labels[i]
            ]
            if terms:
                rows.append(torch.stack(terms).mean())
        assert torch.allclose(supervised_contrastive_loss(features, labels, 0.2), torch.stack(rows).mean())

    def test_draws_grades_together(self) -> None:
        torch.manual_seed(0)
        features = torch.randn(12, 4, requires_grad=True)
        labels = torch.arange(12) % 3
        optimizer = torch.optim.Adam([features], 0.1)
        for _ in range(100):
            optimizer.zero_grad()
            supervised_contrastive_loss(features, labels).backward()
            optimizer.step()
        unit = torch.nn.functional.normalize(features.detach(), dim=1)
        same = labels[:, None] == labels
        likeness = unit @ unit.t()
        assert likeness[same].min() > likeness[~same].max()

    def test_no_pair_is_zero_with_a_graph(self) -> None:
        features = torch.randn(3, 2, requires_grad=True)
        loss = supervised_contrastive_loss(features, torch.arange(3))
        loss.backward()
        assert loss == 0
        assert torch.equal(features.grad, torch.zeros(3, 2))

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="features"):
            supervised_contrastive_loss(torch.randn(3, 2), torch.arange(4))
        with pytest.raises(InputError, match="temperature"):
            supervised_contrastive_loss(torch.randn(3, 2), torch.arange(3), 0.0)


class Known:
    """A scorer whose scores are the images themselves."""

    def __call__(self, x: Tensor) -> object:
        values = x.numpy().astype(np.float32)
        return type("S", (), {"by_name": lambda self: {"gradient": values}})()


class TestStream:
    def test_alarm_share_is_the_rate_on_normal_frames_and_under_drift(self) -> None:
        generator = np.random.default_rng(0)
        stream = StreamScorer(Known(), 0.05, step=0.05)
        stream.calibrate(torch.from_numpy(generator.normal(size=200)))
        drifting = generator.normal(size=6000) + np.linspace(0, 3, 6000)
        alarms = np.concatenate([f.alarms for f in stream.run(torch.from_numpy(drifting).split(100))])
        assert abs(alarms.mean() - 0.05) < 0.02
        still = StreamScorer(Known(), 0.05, step=0.0)
        still.calibrate(torch.from_numpy(generator.normal(size=200)))
        assert still(torch.from_numpy(drifting)).alarms.mean() > 0.3

    def test_catches_an_outburst_and_moves_little(self) -> None:
        generator = np.random.default_rng(0)
        stream = StreamScorer(Known(), 0.01)
        before = stream.calibrate(torch.from_numpy(generator.normal(size=500)))
        found = stream(torch.full((20,), 1e6))
        assert found.alarms.all()
        assert stream.threshold - before < 1

    def test_first_frames_set_the_threshold(self) -> None:
        stream = StreamScorer(Known(), 0.1)
        first = stream(torch.arange(10.0))
        assert np.isinf(first.thresholds).all()
        assert not first.alarms.any()
        assert stream.threshold == 9.0
        second = stream(torch.tensor([9.5, 3.0]))
        assert second.alarms.tolist() == [True, False]
        assert second.index == 10

    def test_splitting_the_stream_changes_nothing(self) -> None:
        x = torch.randn(60, generator=torch.Generator().manual_seed(0))
        whole, parts = StreamScorer(Known(), 0.1), StreamScorer(Known(), 0.1)
        joined = np.concatenate([f.thresholds for f in parts.run(x.split(7))])
        assert np.array_equal(whole(x).thresholds, joined)

    def test_conformal_threshold(self) -> None:
        assert conformal_threshold(np.arange(99.0), 0.01) == 98
        assert conformal_threshold(np.arange(98.0), 0.01) == np.inf

    def test_real_frames(self, scorer: GradConScorer) -> None:
        stream = StreamScorer(scorer, 0.05)
        stream.calibrate(bars(60, seed=3))
        assert stream(torch.rand(8, 1, *SIZE)).alarms.mean() > stream(bars(40, seed=4)).alarms.mean()

    @pytest.mark.parametrize("arguments", [{"rate": 0.0}, {"rate": 1.0}, {"warm_up": 5}, {"step": -1.0}])
    def test_bad_input(self, arguments: dict[str, float]) -> None:
        with pytest.raises(InputError, match=next(iter(arguments))):
            StreamScorer(Known(), **{"rate": 0.1, **arguments})

    def test_too_few_frames_to_calibrate(self) -> None:
        with pytest.raises(InputError, match="frames: got 3; wanted at least 9"):
            StreamScorer(Known(), 0.1).calibrate(torch.zeros(3))
        assert np.isfinite(StreamScorer(Known(), 0.1).calibrate(torch.arange(9.0)))
