"""Detectors that see in-distribution samples only, and outliers made of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detector_samples import LAYERS, ROWS, features, norms
from sklearn.covariance import LedoitWolf

from gradfast import Features
from gradfast.detectors import Detector, OneClassNorms, SummedNorms, metrics, synthetic_outliers
from gradfast.detectors.one_class import ONE_CLASS_METHODS
from gradfast.detectors.synthetic import OUTLIER_KINDS
from gradfast.errors import InputError


def two_classes(n: int, seed: int, spread: float = 0.5) -> Features:
    """Samples of two predicted classes, whose log norms lie apart; `spread` tells typical from unusual."""
    rng = np.random.default_rng(seed)
    predictions = rng.integers(0, 2, n)
    centre = np.where(predictions == 0, -3.0, 3.0)[:, None, None]
    values = np.exp(centre + spread * rng.normal(size=(n, ROWS, LAYERS)))
    return Features.from_arrays(values, layers=[f"layer{i}" for i in range(LAYERS)], predictions=predictions)


@pytest.mark.parametrize("method", ONE_CLASS_METHODS)
class TestOneClassNorms:
    def test_separates_what_lies_far_from_its_class(self, method: str) -> None:
        detector = OneClassNorms(method, folds=2).fit(two_classes(300, 0))
        known, unusual = detector.score(two_classes(200, 1)), detector.score(two_classes(200, 2, 2.0))
        assert metrics.auroc(known, unusual) > 0.95
        # Typical of the other class is unusual for the class that it was put in.
        swapped = two_classes(200, 1)
        swapped = Features.from_arrays(
            swapped.values, layers=swapped.layers, predictions=1 - swapped.predictions
        )
        assert metrics.auroc(known, detector.score(swapped)) > 0.99

    def test_threshold_accepts_the_share_asked_for_of_unseen_samples(self, method: str) -> None:
        detector = OneClassNorms(method, tpr=0.9, folds=3).fit(norms(400, 0))
        assert np.mean(detector.predict(norms(2000, 1)) == 0) == pytest.approx(0.9, abs=0.05)

    def test_saves_and_loads(self, method: str, tmp_path: Path) -> None:
        detector = OneClassNorms(method, folds=2).fit(two_classes(120, 0))
        loaded = Detector.load(detector.save(tmp_path / "d"))
        assert isinstance(loaded, OneClassNorms)
        np.testing.assert_array_equal(loaded.score(two_classes(50, 1)), detector.score(two_classes(50, 1)))
        assert loaded.threshold_ == detector.threshold_

    def test_not_finite_samples_have_no_score(self, method: str) -> None:
        detector = OneClassNorms(method, folds=2).fit(norms(100, 0))
        values = norms(5, 1)
        values[3, 0, 0] = np.inf
        assert np.isnan(detector.score(values)).tolist() == [False, False, False, True, False]
        assert detector.predict(values)[3] == 1


def test_mahalanobis_is_that_of_log_norms_under_the_shrunk_covariance() -> None:
    train, test = norms(200, 0).reshape(200, -1).astype(float), norms(20, 1).reshape(20, -1).astype(float)
    offset = 1e-6 * train.mean(0)
    log = np.log(train + offset)
    scaled = (log - log.mean(0)) / log.std(0)
    expected = (
        LedoitWolf(assume_centered=True)
        .fit(scaled)
        .mahalanobis((np.log(test + offset) - log.mean(0)) / log.std(0))
    )
    np.testing.assert_allclose(OneClassNorms().fit(train).score(test), expected, rtol=1e-5)


def test_a_class_of_few_samples_shares_what_all_have() -> None:
    train = two_classes(100, 0)
    rare = Features.from_arrays(train.values[:5], layers=train.layers, predictions=np.full(5, 7))
    for method in ONE_CLASS_METHODS:
        detector = OneClassNorms(method, folds=2).fit(Features.concat([train, rare]))
        assert np.isfinite(detector.score(rare)).all()


def test_bad_one_class_fits() -> None:
    with pytest.raises(InputError, match="method: got 'svm'"):
        OneClassNorms("svm").fit(norms(20, 0))
    with pytest.raises(InputError, match="features_in: got 3 usable samples"):
        OneClassNorms().fit(norms(3, 0))
    with pytest.raises(InputError, match="not fitted"):
        OneClassNorms().score(norms(3, 0))
    with pytest.raises(InputError, match="no calibrated probability"):
        Detector.predict_proba.__wrapped__(OneClassNorms(folds=2).fit(norms(20, 0)), norms(3, 0))  # type: ignore[attr-defined]


def test_summed_norms_by_hand() -> None:
    values = norms(4, 0)
    np.testing.assert_allclose(SummedNorms().score(values), values.astype(float).sum((1, 2)))
    np.testing.assert_allclose(SummedNorms(log=True).score(values), np.log(values.astype(float)).sum((1, 2)))
    values[0, 0, 0] = 0
    scores = SummedNorms(log=True).score(values)
    assert np.isfinite(scores).all()
    assert scores.argmin() == 0
    detector = SummedNorms(log=True).fit(values)
    detector.calibrate(values, norms(4, 1) * 2)
    assert np.isfinite(detector.predict_proba(values)).all()


def test_one_class_detectors_get_probabilities_from_known_outliers() -> None:
    detector = OneClassNorms(folds=2).fit(features(100, 0))
    assert not hasattr(detector, "predict_proba")
    detector.calibrate(features(100, 1), features(100, 2, 4.0))
    p = detector.predict_proba(features(50, 3, 4.0))
    np.testing.assert_allclose(p.sum(1), 1)
    assert p[:, 1].mean() > 0.7 > detector.predict_proba(features(50, 4))[:, 1].mean()


class TestSyntheticOutliers:
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(99))

    @pytest.mark.parametrize("kind", OUTLIER_KINDS)
    def test_every_kind_changes_every_image_within_the_range(self, kind: str) -> None:
        if kind in ("haze", "snow", "lens_blur", "gaussian_blur", "dirty_lens"):
            pytest.importorskip("kornia")
        made = synthetic_outliers(self.images[:6], kinds=[kind])
        assert made.shape == (6, 3, 16, 16)
        assert made.dtype == torch.float32
        assert made.min() >= 0
        assert made.max() <= 1
        assert (made != self.images[:6]).flatten(1).any(1).all()

    def test_depends_on_the_seed_alone_and_takes_each_kind_as_often(self) -> None:
        kinds = ["jigsaw", "rotation", "uniform", "noise"]
        made = synthetic_outliers(self.images, 3, kinds=kinds)
        assert torch.equal(made, synthetic_outliers(self.images, 3, kinds=kinds))
        assert not torch.equal(made, synthetic_outliers(self.images, 4, kinds=kinds))
        turned = self.images.rot90(1, (2, 3))
        assert int((made == turned).flatten(1).all(1).sum()) == 10

    def test_jigsaw_keeps_the_pixels(self) -> None:
        made = synthetic_outliers(self.images, kinds=["jigsaw"])
        torch.testing.assert_close(made.flatten(2).sort(2).values, self.images.flatten(2).sort(2).values)

    @pytest.mark.parametrize(
        ("images", "options", "message"),
        [
            (torch.zeros(2, 3, 4), {}, r"wanted floats \[n, C, H, W\]"),
            (torch.full((2, 3, 8, 8), 2.0), {}, "outside"),
            (torch.full((2, 3, 8, 8), torch.nan), {}, "outside"),
            (torch.zeros(2, 3, 8, 8), {"kinds": ["fog"]}, "kinds: got"),
            (torch.zeros(2, 3, 8, 8), {"level": 9}, "level: got 9"),
            (torch.zeros(2, 3, 8, 6), {"kinds": ["rotation"]}, "squares"),
            (torch.zeros(2, 3, 2, 2), {"kinds": ["jigsaw"]}, "at least 4 x 4"),
        ],
    )
    def test_bad_images(self, images: torch.Tensor, options: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            synthetic_outliers(images, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["mahalanobis", "forest"])
def test_known_samples_of_a_class_with_few_of_them_are_not_all_out(method: str) -> None:
    def samples(counts: list[int], seed: int) -> Features:
        rng = np.random.default_rng(seed)
        classes = np.repeat(np.arange(len(counts)), counts)
        values = np.exp(0.3 * rng.normal(size=(len(classes), 6)) + classes[:, None])
        return Features.from_arrays(values, layers=list("abcdef"), predictions=classes)

    detector = OneClassNorms(method).fit(samples([12, 40, 40, 40, 40], seed=0))  # far from the mean of all
    accepted = detector.predict(samples([400, 0, 0, 0, 0], seed=1)) == 0
    assert accepted.mean() > 0.75
    assert (detector.predict(samples([0, 400, 400, 400, 400], seed=2)) == 0).mean() > 0.85
