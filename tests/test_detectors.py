"""The detectors on synthetic norms: fitting, scoring, thresholds, persistence, protocols and bad input."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from gradfast.detectors import (
    DetectorFileError,
    MaximumSoftmax,
    NormClassifier,
    OneClassNorms,
    PreparationWarning,
    Purview,
    metrics,
)
from gradfast.detectors.evaluation import LEFT_OUT, NO_OUTLIERS, SAME_SET, Method, halves, run_protocols
from gradfast.errors import InputError

ROWS, LAYERS = 3, 5


@dataclass
class FakeFeatures:
    """What detectors read of `gradfast.Features`."""

    values: NDArray[Any]
    layers: tuple[str, ...] = tuple(f"layer{i}" for i in range(LAYERS))
    logits: NDArray[Any] | None = None
    settings: dict[str, Any] = field(
        default_factory=lambda: {"model_fingerprint": "abc", "contrast": "one-hot"}
    )


def norms(n: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Log-normal squared norms of layers whose scales differ by up to twelve orders of magnitude."""
    rng = np.random.default_rng(seed)
    scale = np.logspace(-9, 3, LAYERS)
    return (scale * np.exp(2 * rng.normal(size=(n, ROWS, LAYERS)) + shift)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Purview:
    return Purview().fit(FakeFeatures(norms(600, 0)), FakeFeatures(norms(400, 1, 1.5)))


@pytest.mark.parametrize("head", ["logistic", "mlp", GradientBoostingClassifier(n_estimators=60)])
def test_every_head_separates(head: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        detector = Purview(head).fit(norms(200, 0), norms(150, 1, 1.5))
    assert metrics.auroc(detector.score(norms(300, 2)), detector.score(norms(300, 3, 1.5))) > 0.93


def test_scores_do_not_depend_on_the_units_of_a_layer(fitted: Purview) -> None:
    units = np.logspace(-3, 3, LAYERS)
    rescaled = Purview().fit(norms(600, 0) * units, norms(400, 1, 1.5) * units)
    np.testing.assert_allclose(
        rescaled.score(norms(50, 2) * units), fitted.score(FakeFeatures(norms(50, 2))), rtol=1e-3
    )


def test_threshold_accepts_the_share_asked_for_of_unseen_samples(fitted: Purview) -> None:
    fresh = FakeFeatures(norms(4000, 9))
    assert np.mean(fitted.predict(fresh) == 0) == pytest.approx(0.95, abs=0.04)
    calibrated = clone(fitted).fit(FakeFeatures(norms(600, 0)), FakeFeatures(norms(400, 1, 1.5)))
    calibrated.calibrate(fresh, tpr=0.8)
    assert np.mean(calibrated.predict(fresh) == 0) == pytest.approx(0.8, abs=1e-3)
    assert np.mean(calibrated.predict(FakeFeatures(norms(500, 8, 1.5)))) > np.mean(
        fitted.predict(FakeFeatures(norms(500, 8, 1.5)))
    )


def test_threshold_is_not_set_on_samples_that_h_saw() -> None:
    # Labels without any signal: a forest fits them perfectly, and must still accept 95% of fresh samples.
    head = RandomForestClassifier(60, random_state=0)
    detector = Purview(head).fit(norms(200, 0), norms(200, 1))
    assert metrics.auroc(detector.score(norms(200, 0)), detector.score(norms(200, 1))) > 0.99
    assert np.mean(detector.predict(norms(500, 5)) == 0) > 0.88


def test_a_sample_that_is_not_finite_spoils_no_other(fitted: Purview) -> None:
    values = norms(6, 4)
    clean = fitted.score(FakeFeatures(values))
    values[2] = np.nan
    spoiled = fitted.score(FakeFeatures(values))
    assert np.isnan(spoiled[2])
    np.testing.assert_allclose(np.delete(spoiled, 2), np.delete(clean, 2), rtol=1e-12)
    assert fitted.predict(FakeFeatures(values))[2] == 1
    with pytest.warns(UserWarning, match="features_in: 1 of 6 samples are not finite"):
        Purview(folds=2).fit(values, norms(6, 5, 3.0))


def test_a_layer_without_gradient_is_finite() -> None:
    inside, outside = norms(60, 0), norms(60, 1, 3.0)
    inside[..., 0] = outside[..., 0] = 0
    detector = Purview().fit(inside, outside)
    assert np.isfinite(detector.score(norms(20, 2))).all()


def test_torch_tensors_and_two_dimensional_arrays_give_the_same_scores() -> None:
    inside, outside, test = norms(80, 0), norms(80, 1, 1.0), norms(30, 2)
    expected = Purview().fit(inside, outside).score(test)
    flat = Purview().fit(inside.reshape(80, -1), outside.reshape(80, -1))
    np.testing.assert_array_equal(flat.score(test.reshape(30, -1)), expected)
    tensors = Purview().fit(torch.from_numpy(inside), torch.from_numpy(outside))
    np.testing.assert_array_equal(tensors.score(torch.from_numpy(test)), expected)


def test_params_and_clone() -> None:
    detector = Purview("mlp", tpr=0.9)
    assert detector.get_params() == {
        "head": "mlp",
        "eps": detector.eps,
        "log": True,
        "tpr": 0.9,
        "folds": 5,
        "calibration": "platt",
        "random_state": 0,
    }
    assert clone(detector.set_params(head="logistic")).head == "logistic"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (FakeFeatures(norms(5, 0)[:, :1]), "got 1 contrast rows x 5 layers, wanted 3 x 5"),
        (
            FakeFeatures(norms(5, 0), layers=("layer0", "x", "layer2", "layer3", "layer4")),
            "layer 1 is 'x', wanted 'layer1'",
        ),
        (
            FakeFeatures(norms(5, 0), settings={"model_fingerprint": "def"}),
            "model fingerprint is 'def', wanted 'abc'",
        ),
        (
            FakeFeatures(norms(5, 0), settings={"contrast": "all-ones"}),
            "contrast is 'all-ones', wanted 'one-hot'",
        ),
        (np.zeros(4), r"got shape \[4\]"),
        (-norms(5, 0), "negative"),
    ],
)
def test_other_features_are_refused(fitted: Purview, features: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted.score(features)


def prepared(seed: int, shift: float = 0.0, **settings: Any) -> FakeFeatures:
    """Features of images that were prepared in a given way."""
    settings = {"model_fingerprint": "abc", "dtype": "float32", **settings}
    return FakeFeatures(norms(60, seed, shift), settings=settings)


def test_images_prepared_in_another_way_than_those_of_the_fit_are_warned_of(tmp_path: Path) -> None:
    normalised = {"size": None, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "jpeg_quality": None}
    source = {"kind": "ImageFolder", "preprocess": normalised}
    detector = Purview().fit(prepared(0, source=source), prepared(1, 1.5))
    loaded = Purview.load(detector.save(tmp_path / "d"))
    plain = {**source, "preprocess": {**normalised, "mean": None}}
    for known in (detector, loaded):
        with pytest.warns(
            PreparationWarning, match=r"features: .* \(mean None, not \[0.4, 0.4, 0.4\]\)"
        ) as found:
            known.score(prepared(2, source=plain))
        assert len(found) == 1
        assert found[0].filename == __file__
        with pytest.warns(PreparationWarning, match="dtype bfloat16, not float32"):
            known.predict(prepared(2, dtype="bfloat16"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            known.score(prepared(2, source=source))
            known.score(prepared(2, source=[source, source]))
            known.score(prepared(2, source=[source, plain]))  # not one way, so unknown
            known.score(prepared(2, source={**source, "preprocess": {**normalised, "jpeg_quality": 75}}))
            known.score(norms(5, 2))


def test_a_fingerprint_is_named_by_eight_digits() -> None:
    made = {"model_fingerprint": "a1" * 32}
    detector = Purview().fit(prepared(0, **made), prepared(1, 1.5, **made))
    with pytest.raises(InputError, match=r"model fingerprint is 'b2b2b2b2', wanted 'a1a1a1a1'$"):
        detector.score(prepared(2, model_fingerprint="b2" * 32))


@pytest.mark.parametrize("folds", [1, 0, 2.5, True])
@pytest.mark.parametrize("kind", [Purview, OneClassNorms])
def test_folds_that_are_none_or_too_few(kind: Any, folds: Any) -> None:
    with pytest.raises(InputError, match=f"folds: got {folds}, wanted None or an int of at least 2"):
        kind(folds=folds).fit(norms(20, 0), norms(20, 1))


def test_bad_fits() -> None:
    with pytest.raises(InputError, match="features_out: got None"):
        Purview().fit(norms(20, 0))
    with pytest.raises(InputError, match="features_out: got 3 usable samples, wanted at least folds = 5"):
        Purview().fit(norms(20, 0), norms(3, 1))
    with pytest.raises(
        InputError, match="features_out: the unknown set differs from the known one: got 3 contrast rows x 2"
    ):
        Purview().fit(norms(20, 0), norms(20, 1)[..., :2])
    with pytest.raises(InputError, match="none is finite"):
        Purview().fit(norms(20, 0) * np.nan, norms(20, 1))
    with pytest.raises(InputError, match="head: got 'svm', wanted 'logistic' or 'mlp'"):
        Purview("svm").fit(norms(20, 0), norms(20, 1))
    with pytest.raises(InputError, match="eps: got 0"):
        Purview(eps=0).fit(norms(20, 0), norms(20, 1))
    with pytest.raises(InputError, match="not fitted"):
        Purview().score(norms(3, 0))


def test_without_folds_there_is_no_threshold_until_it_is_calibrated(tmp_path: Path) -> None:
    detector = Purview(folds=None).fit(norms(60, 0), norms(60, 1, 1.0))
    with pytest.raises(InputError, match="no threshold"):
        Purview.load(detector.save(tmp_path / "d")).predict(norms(5, 2))
    assert np.mean(detector.calibrate(norms(100, 3)).predict(norms(100, 3)) == 0) == pytest.approx(0.95)
    refitted = detector.fit(norms(60, 0), norms(60, 1, 1.0))
    assert not hasattr(refitted, "threshold_")


class TestPersistence:
    @pytest.mark.parametrize("head", ["logistic", "mlp", GradientBoostingClassifier(n_estimators=5)])
    def test_round_trip(self, head: Any, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            detector = Purview(head, tpr=0.9).fit(FakeFeatures(norms(80, 0)), FakeFeatures(norms(80, 1, 1.0)))
        loaded = Purview.load(detector.save(tmp_path / "detector"))
        test = FakeFeatures(norms(40, 2))
        np.testing.assert_array_equal(loaded.score(test), detector.score(test))
        np.testing.assert_array_equal(loaded.predict(test), detector.predict(test))
        assert loaded.schema_ == detector.schema_
        assert {k: v for k, v in loaded.get_params(deep=False).items() if k != "head"} == {
            k: v for k, v in detector.get_params(deep=False).items() if k != "head"
        }
        assert type(loaded.head) is type(detector.head)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["detector"]

    def test_refuses_another_model_after_loading(self, fitted: Purview, tmp_path: Path) -> None:
        loaded = Purview.load(fitted.save(tmp_path / "d"))
        with pytest.raises(InputError, match="model fingerprint"):
            loaded.score(FakeFeatures(norms(5, 0), settings={"model_fingerprint": "other"}))

    def test_overwrites_only_when_told_and_only_a_detector(self, fitted: Purview, tmp_path: Path) -> None:
        fitted.save(tmp_path / "d")
        with pytest.raises(InputError, match="already holds a saved detector"):
            fitted.save(tmp_path / "d")
        (tmp_path / "d" / "scores.csv").write_text("mine")
        (tmp_path / "d" / "report.html").write_text("of the one before")
        fitted.save(tmp_path / "d", overwrite=True)
        assert (tmp_path / "d" / "scores.csv").read_text() == "mine"
        assert not (tmp_path / "d" / "report.html").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["d"]
        (tmp_path / "photos").mkdir()
        with pytest.raises(InputError, match="holds no detector, so it is not overwritten"):
            fitted.save(tmp_path / "photos", overwrite=True)

    def test_damage_is_noticed(self, fitted: Purview, tmp_path: Path) -> None:
        directory = fitted.save(tmp_path / "d")
        payload = directory / "classifier.skops"
        payload.write_bytes(payload.read_bytes()[:-7])
        with pytest.raises(DetectorFileError, match="damaged"):
            Purview.load(directory)

    def test_other_directories_formats_and_kinds(self, fitted: Purview, tmp_path: Path) -> None:
        with pytest.raises(DetectorFileError, match="holds no saved detector"):
            Purview.load(tmp_path)
        metadata = fitted.save(tmp_path / "d") / "detector.json"
        content = json.loads(metadata.read_text())
        for key, value, message in (
            ("kind", "Energy", "holds a Energy detector"),
            ("format", 99, "got format 99"),
        ):
            metadata.write_text(json.dumps({**content, key: value}))
            with pytest.raises(DetectorFileError, match=message):
                Purview.load(tmp_path / "d")
        metadata.write_text("{")
        with pytest.raises(DetectorFileError, match="not valid JSON"):
            Purview.load(tmp_path / "d")

    def test_foreign_types_need_trust(self, tmp_path: Path) -> None:
        detector = Purview(ForeignHead()).fit(norms(30, 0), norms(30, 1, 2.0))
        directory = detector.save(tmp_path / "d")
        with pytest.raises(DetectorFileError, match="ForeignHead") as refused:
            Purview.load(directory)
        assert "trusted" in str(refused.value)
        name = f"{ForeignHead.__module__}.ForeignHead"
        np.testing.assert_array_equal(
            Purview.load(directory, trusted=[name]).score(norms(9, 3)), detector.score(norms(9, 3))
        )


class ForeignHead(GradientBoostingClassifier):  # type: ignore[misc]
    """A head from outside scikit-learn."""


def test_norm_classifier_is_a_scikit_learn_estimator() -> None:
    expected = {"check_decision_proba_consistency": "feeds negative features although the tags rule them out"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(NormClassifier(), expected_failed_checks=expected, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40


def test_decision_and_probability_order_samples_alike() -> None:
    X, y = np.concatenate([norms(60, 0), norms(60, 1, 1.0)]).reshape(120, -1), np.repeat([0, 1], 60)
    for head in ("logistic", "mlp"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = NormClassifier(head).fit(X, y)
        p = model.predict_proba(X)[:, 1]
        np.testing.assert_allclose(model.decision_function(X), np.log(p) - np.log1p(-p), rtol=1e-6, atol=1e-9)


class TestMaximumSoftmax:
    def test_by_hand(self) -> None:
        logits = np.log([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])
        np.testing.assert_allclose(MaximumSoftmax().score(logits + 7.0), -np.log([0.5, 0.9]))

    def test_no_ties_where_the_probability_rounds_to_one(self) -> None:
        scores = MaximumSoftmax().score(np.array([[40.0, 0.0], [60.0, 0.0], [1e4, 0.0]]))
        assert scores[0] > scores[1] > scores[2] >= 0 or scores[2] == 0

    def test_reads_logits_and_sets_a_threshold(self) -> None:
        logits = np.random.default_rng(0).normal(size=(400, 4)) * 3
        detector = MaximumSoftmax(tpr=0.9).fit(FakeFeatures(norms(400, 0), logits=logits))
        assert np.mean(detector.predict(logits) == 0) == pytest.approx(0.9)

    def test_flagged_and_missing_logits(self) -> None:
        assert np.isnan(MaximumSoftmax().score(np.array([[1.0, np.nan], [1.0, 2.0]]))).tolist() == [
            True,
            False,
        ]
        with pytest.raises(InputError, match="without logits"):
            MaximumSoftmax().score(FakeFeatures(norms(4, 0)))
        with pytest.raises(InputError, match=r"shape \[4, 1\]"):
            MaximumSoftmax().score(np.zeros((4, 1)))


class TestProtocols:
    def test_halves_partition_and_depend_on_length_and_seed_alone(self) -> None:
        fit, test = halves(101, 0.5, seed=3)
        assert sorted([*fit, *test]) == list(range(101))
        assert len(test) == 50
        np.testing.assert_array_equal(test, halves(101, 0.5, seed=3)[1])
        assert not np.array_equal(test, halves(101, 0.5, seed=4)[1])
        for n, fraction in ((10, 1.0), (1, 0.5)):
            with pytest.raises(InputError, match="test_fraction"):
                halves(n, fraction)

    def test_no_test_sample_is_ever_fitted_to(self) -> None:
        log: list[tuple[set[float], set[float]]] = []

        class Spy(MaximumSoftmax):
            def fit(self, features_in: Any, features_out: Any = None) -> Spy:
                self.seen = {*features_in[:, 0].tolist(), *features_out[:, 0].tolist()}
                return self

            def score(self, features: Any) -> NDArray[np.float64]:
                log.append((self.seen, set(features[:, 0].tolist())))
                return np.asarray(features[:, 0])

        ids = [np.stack([np.arange(start, start + 40.0)] * 2, axis=1) for start in (0, 100, 200)]
        outcomes = run_protocols([Method("spy", Spy, ids[0], {"a": ids[1], "b": ids[2]})], seeds=(0, 1))
        assert [(o.out_set, o.protocol, len(o.splits)) for o in outcomes] == [
            ("a", SAME_SET, 2), ("a", LEFT_OUT, 2), ("b", SAME_SET, 2), ("b", LEFT_OUT, 2),
        ]  # fmt: skip
        assert len(log) == 16
        assert all(not seen & tested for seen, tested in log)
        for outcome, start in zip(outcomes, range(0, 16, 4), strict=True):
            kind = range(100, 140) if outcome.out_set == "a" else range(200, 240)
            assert bool(log[start][0] & set(kind)) == (outcome.protocol == SAME_SET)

    def test_methods_without_outliers_are_scored_once(self) -> None:
        logits = np.random.default_rng(0).normal(size=(60, 4))
        method = Method("msp", MaximumSoftmax, logits * 5, {"a": logits, "b": logits}, learns=False)
        outcomes = run_protocols([method], seeds=range(3))
        assert [outcome.protocol for outcome in outcomes] == [NO_OUTLIERS, NO_OUTLIERS]
        spread = outcomes[0].spread
        assert spread is not None
        assert spread.auroc == pytest.approx(np.std([split.auroc for split in outcomes[0].splits], ddof=1))
        assert outcomes[0].mean.auroc == pytest.approx(np.mean([split.auroc for split in outcomes[0].splits]))
