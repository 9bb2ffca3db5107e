"""Explanations of scores, and calibrated probabilities."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_samples import LAYERS, ROWS, features, norms
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator

from gradfast import Features
from gradfast.detectors import Purview, SourceClassifier
from gradfast.detectors.calibration import Calibrator
from gradfast.errors import InputError


def fitted(head: str = "logistic", **given: object) -> Purview:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Purview(head, folds=3, **given).fit(features(150, 0), features(150, 1, 1.5))  # type: ignore[arg-type]


class TestExplanation:
    def test_logistic_shares_sum_up_to_the_score(self) -> None:
        detector = fitted()
        test = features(6, 2, 1.5)
        found = detector.explain(test)
        assert found.exact
        assert found.values.shape == (6, ROWS, LAYERS)
        np.testing.assert_allclose(found.values.sum((1, 2)) + found.base, detector.score(test))
        np.testing.assert_allclose(found.by_layer().sum(1), found.by_class().sum(1))
        # An average in-distribution sample has the base as its score.
        inside = detector.classifier_.scale(features(150, 0).values.reshape(150, -1)).mean(0)
        np.testing.assert_allclose(detector.classifier_.decide(inside[None])[0], found.base)

    @pytest.mark.parametrize("head", ["mlp", "boosting"])
    def test_other_heads_are_explained_by_occlusion(self, head: str) -> None:
        detector = fitted(head)
        test = features(3, 2, 1.5)
        found = detector.explain(test)
        assert not found.exact
        scaled = detector.classifier_.scale(test.values.reshape(3, -1))
        changed = scaled.copy()
        changed[:, 7] = detector.classifier_.inside_[7]  # row 1, layer 2
        expected = detector.score(test) - detector.classifier_.decide(changed)
        np.testing.assert_allclose(found.values[:, 1, 2], expected, atol=1e-9)

    def test_names_the_layer_and_class_that_spoke(self) -> None:
        inside, outside = norms(200, 0), norms(200, 1)
        outside[:, 1, 3] *= 50
        detector = Purview(folds=None).fit(wrapped(inside), wrapped(outside))
        layer, row, value = detector.explain(wrapped(outside[:1])).top(1)[0]
        assert (layer, row) == ("layer3", "class 1")
        assert value > 0

    def test_plots(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        for test in (features(2, 2), norms(2, 2)[:, :1]):
            detector = Purview(folds=None).fit(
                *(
                    (features(60, s, float(s)) if hasattr(test, "layers") else norms(60, s, float(s))[:, :1])
                    for s in (0, 1)
                )
            )
            figure = detector.explain(test).plot(1, layers=3)
            assert len(figure.axes) == (3 if hasattr(test, "layers") else 1)  # with the colour bar
            figure.savefig(tmp_path / "plot.png")

    def test_a_sample_without_a_score_cannot_be_explained(self) -> None:
        values = norms(3, 0)
        values[1] = np.nan
        with pytest.raises(InputError, match="sample 1 is not finite"):
            Purview(folds=None).fit(norms(30, 0), norms(30, 1)).explain(values)

    def test_columns_of_a_source_are_layers(self) -> None:
        rng = np.random.default_rng(0)
        detector = SourceClassifier(folds=None).fit(rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 1)
        found = detector.explain(rng.normal(size=(2, 3)))
        np.testing.assert_allclose(found.values.sum((1, 2)) + found.base, found.scores)


def wrapped(values: NDArray[Any]) -> Features:
    return Features.from_arrays(
        values,
        layers=[f"layer{i}" for i in range(LAYERS)],
        classes=np.arange(ROWS),
        settings={"contrast": "one-hot"},
    )


class TestProbability:
    @pytest.mark.parametrize("method", ["platt", "isotonic"])
    def test_is_calibrated_on_unseen_samples(self, method: str) -> None:
        detector = Purview(calibration=method).fit(norms(600, 0), norms(600, 1, 0.5))
        p = np.concatenate(
            [detector.predict_proba(norms(2000, 2))[:, 1], detector.predict_proba(norms(2000, 3, 0.5))[:, 1]]
        )
        is_out = np.repeat([0, 1], 2000)
        for low in (0.0, 0.25, 0.5, 0.75):
            chosen = (p >= low) & (p < low + 0.25)
            assert is_out[chosen].mean() == pytest.approx(p[chosen].mean(), abs=0.06)

    def test_platt_agrees_with_scikit_learn(self) -> None:
        rng = np.random.default_rng(0)
        inside, outside = rng.normal(size=300), 1.5 + rng.normal(size=200)
        ours = Calibrator().fit(inside, outside).probabilities(np.linspace(-3, 4, 30))[:, 1]
        scores, y = np.concatenate([inside, outside])[:, None], np.repeat([0, 1], [300, 200])
        identity = FrozenEstimator(_Identity().fit(scores, y))
        theirs = CalibratedClassifierCV(identity, method="sigmoid").fit(scores, y)
        np.testing.assert_allclose(
            ours, theirs.predict_proba(np.linspace(-3, 4, 30)[:, None])[:, 1], atol=1e-3
        )

    def test_separable_scores_stay_short_of_certainty(self) -> None:
        p = Calibrator().fit(np.zeros(20), np.ones(20)).probabilities(np.array([0.0, 1.0, np.nan]))
        assert 0 < p[0, 1] < 0.1 < 0.9 < p[1, 1] < 1
        assert np.isnan(p[2]).all()

    @pytest.mark.parametrize("method", ["platt", "isotonic"])
    def test_is_saved(self, method: str, tmp_path: Path) -> None:
        detector = Purview(calibration=method).fit(features(60, 0), features(60, 1, 1.0))
        loaded = Purview.load(detector.save(tmp_path / "d"))
        np.testing.assert_allclose(
            loaded.predict_proba(features(9, 2)), detector.predict_proba(features(9, 2))
        )

    def test_bad_calibrations(self) -> None:
        with pytest.raises(InputError, match="calibration: got 'beta'"):
            Purview(calibration="beta").fit(norms(20, 0), norms(20, 1))
        with pytest.raises(InputError, match="no calibrated probability"):
            Purview(folds=None).fit(norms(20, 0), norms(20, 1)).predict_proba(norms(3, 0))
        detector = Purview(folds=2).fit(norms(20, 0), norms(20, 1))
        with pytest.raises(InputError, match="the scores of all 4 samples are NaN"):
            detector.calibrate(norms(4, 0) * np.nan)
        with pytest.raises(InputError, match="and 0 of outliers"):
            detector.calibrate(norms(4, 0), norms(4, 0) * np.nan)


class _Identity(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decision is its only feature."""

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> _Identity:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(X)[:, 0]

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return (self.decision_function(X) > 0).astype(int)
