"""One detector for two ecosystems: scikit-learn's estimators and pytorch-ood's detectors; streams; the registry."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_samples import batches, features, network, norms
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradfast import FeatureExtractor, grad_norms
from gradfast.detectors import (
    Detector,
    DetectorFileError,
    MaximumSoftmax,
    OneClassNorms,
    PreparationWarning,
    Purview,
    SourceClassifier,
    SourceScore,
    StreamScorer,
    SummedNorms,
    evaluate,
)
from gradfast.detectors.registry import METHODS, NORMS, method
from gradfast.detectors.scaling import NormScaler
from gradfast.detectors.sources import SOURCES
from gradfast.errors import InputError

LOADER = [*batches(120, seed=1), *batches(120, seed=2, label=-1)]

_NAMES = "the second argument is named features_out: it takes outliers' features as well as labels"
_THRESHOLD = "predict accepts a share tpr of known samples, which is not where the probability is one half"
_SIGN = "feeds negative features although the tags rule them out"
_LABEL = "fitted to one class, whatever its label, this is a detector of all others: labels are 0 and 1"
EXPECTED: dict[str, dict[str, str]] = {
    "NormScaler": {},
    "Purview": {
        "check_fit_score_takes_y": _NAMES,
        "check_classifiers_train": _THRESHOLD,
        "check_decision_proba_consistency": _SIGN,
    },
    "SourceClassifier": {"check_fit_score_takes_y": _NAMES, "check_classifiers_train": _THRESHOLD},
    "OneClassNorms": {"check_fit_score_takes_y": _NAMES, "check_classifiers_one_label": _LABEL},
    "SummedNorms": {"check_fit_score_takes_y": _NAMES, "check_classifiers_one_label": _LABEL},
    "MaximumSoftmax": {
        "check_fit_score_takes_y": _NAMES,
        "check_classifiers_one_label": _LABEL,
        "check_fit2d_1feature": "one logit is no distribution",
    },
}


@pytest.mark.parametrize(
    "estimator",
    [
        NormScaler(),
        Purview(folds=2),
        SourceClassifier(folds=2),
        OneClassNorms(folds=2),
        SummedNorms(),
        MaximumSoftmax(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learn_checks_pass(estimator: Any) -> None:
    expected = EXPECTED[type(estimator).__name__]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, expected_failed_checks=expected, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 40


class TestScikitLearn:
    X = np.concatenate([norms(80, 0), norms(80, 1, 1.5)]).reshape(160, -1)
    y = np.repeat([0, 1], 80)

    def test_fit_takes_labels_as_it_takes_two_sets(self) -> None:
        two_sets = Purview().fit(self.X[:80], self.X[80:])
        labelled = Purview().fit(self.X, self.y)
        names = Purview().fit(self.X, np.where(self.y == 1, "out", "in"))
        np.testing.assert_array_equal(labelled.score(self.X), two_sets.score(self.X))
        np.testing.assert_array_equal(names.predict(self.X) == "out", labelled.predict(self.X) == 1)
        assert labelled.score(self.X, self.y) == np.mean(labelled.predict(self.X) == self.y)
        np.testing.assert_array_equal(labelled.decision_function(self.X) > 0, labelled.predict(self.X) == 1)

    def test_in_a_pipeline_under_cross_validation_and_grid_search(self) -> None:
        pipe = make_pipeline(FunctionTransformer(lambda X: X[:, :10]), Purview(folds=2))
        assert cross_val_score(pipe, self.X, self.y, cv=3, scoring="roc_auc").mean() > 0.85
        assert cross_val_score(Purview(folds=2), self.X, self.y, cv=3).mean() > 0.7  # accuracy
        assert cross_val_score(OneClassNorms(folds=2), self.X, self.y, cv=3, scoring="roc_auc").mean() > 0.6
        search = GridSearchCV(Purview(folds=2), {"log": [True, False]}, scoring="roc_auc", cv=3)
        assert search.fit(self.X, self.y).best_params_ == {"log": True}

    def test_labels_that_cannot_be_used(self) -> None:
        with pytest.raises(InputError, match="got 1 class"):
            Purview().fit(self.X, np.zeros(160, dtype=int))
        with pytest.raises(InputError, match="Only binary classification"):
            Purview().fit(self.X, np.arange(160) % 3)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            Purview().fit(self.X, self.y[:5])
        with pytest.raises(ValueError, match="expecting 15 features"):
            Purview().fit(self.X, self.y).score(self.X[:, :4])

    def test_clone_keeps_the_model_and_no_fit(self) -> None:
        model = network()
        twin = clone(Purview("mlp").bind(model, contrast="all-ones").fit(LOADER))
        assert twin.reader.model is model
        assert twin.head == "mlp"
        assert not hasattr(twin, "classifier_")


class TestBound:
    def test_inputs_give_the_scores_of_their_features(self) -> None:
        model = network()
        detector = Purview().bind(model, contrast="all-ones", layers="*.weight", batch_size=7).fit(LOADER)
        x = batches(seed=9)[0][0]
        scores = detector.predict(x)
        assert isinstance(scores, Tensor)
        assert scores.shape == (10,)
        extractor = FeatureExtractor(model, contrast="all-ones", layers="*.weight")
        expected = detector.score(extractor.extract(x, progress=False))
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        torch.testing.assert_close(detector(x), scores)
        assert set(detector.predict(extractor.extract(x, progress=False))) <= {0, 1}
        known = torch.cat([detector.predict(x) for x, _ in batches(60, seed=5)])
        unknown = torch.cat([detector.predict(x) for x, _ in batches(60, seed=6, label=-1)])
        assert evaluate(known, unknown).auroc > 0.9

    @pytest.mark.parametrize("kind", [Purview, MaximumSoftmax])
    def test_every_method_takes_a_tensor_of_inputs(self, kind: type[Detector]) -> None:
        detector = kind().bind(network()).fit(LOADER)
        x = batches(seed=9)[0][0]
        expected = detector.predict(x).double().numpy()
        np.testing.assert_allclose(detector.score(x), expected, rtol=1e-5)
        np.testing.assert_allclose(
            detector.decision_function(x), expected - detector.threshold_, rtol=1e-4, atol=1e-5
        )
        labels = detector.predict_labels(x)
        np.testing.assert_array_equal(labels, expected > detector.threshold_)
        assert detector.score(x, labels) == 1
        detector.calibrate(x, batches(label=-1)[0][0], tpr=0.5)
        assert np.mean(detector.predict_labels(x)) == 0.5
        assert detector.predict_proba(x).shape == (10, 2)

    @pytest.mark.parametrize("array", [torch.zeros(3, 3, 8, 8), np.zeros((3, 3, 8, 8), np.float32)])
    def test_images_without_a_model(self, array: Any, tmp_path: Path) -> None:
        fitted = Purview().fit(norms(60, 0), norms(40, 1, 1.5))
        loaded = Detector.load(fitted.save(tmp_path / "d"))
        for use in (fitted.score, loaded.predict, loaded.explain, Purview().fit, OneClassNorms().fit):
            with pytest.raises(InputError, match=r"is not bound to a model, .*; call bind\(model\)"):
                use(array)

    def test_a_bare_tensor_to_fit(self) -> None:
        x = batches()[0][0]
        for detector in (Purview(), SourceScore("knn"), MaximumSoftmax()):
            with pytest.raises(
                InputError, match=r"got a bare tensor of shape .*; wanted a loader of batches \(x, y\)"
            ):
                detector.bind(network()).fit(x)

    def test_the_dtype_of_the_fit_is_known(self, tmp_path: Path) -> None:
        detector = Purview().bind(network(), dtype=torch.bfloat16).fit(LOADER)
        loaded = Detector.load(detector.save(tmp_path / "d")).bind(network())
        with warnings.catch_warnings():
            warnings.simplefilter("error", PreparationWarning)
            loaded.predict(batches()[0][0])
        with pytest.warns(PreparationWarning, match="dtype float32, not bfloat16"):
            loaded.bind(network(), dtype=torch.float32).predict(batches()[0][0])

    def test_a_sample_that_is_not_finite_spoils_no_other(self) -> None:
        detector = Purview().bind(network()).fit(LOADER)
        x = batches(seed=9)[0][0]
        expected = detector.predict(x)
        x[4] = torch.inf
        found = detector.predict(x)
        assert found[4].isnan()
        np.testing.assert_allclose(np.delete(found.numpy(), 4), np.delete(expected.numpy(), 4), rtol=1e-5)

    def test_loaders_datasets_and_iterators(self) -> None:
        x, y = (torch.cat(parts) for parts in zip(*LOADER, strict=True))
        loader = DataLoader(TensorDataset(x, y), batch_size=16)
        ways = [LOADER, loader, TensorDataset(x, y), iter(LOADER), (x, y)]
        scores = [Purview().bind(network()).fit(way).predict(x[:5]) for way in ways]
        for other in scores[1:]:
            torch.testing.assert_close(other, scores[0], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", sorted(SOURCES))
    def test_sources_are_fitted_by_the_loader(self, name: str) -> None:
        settings: dict[str, Any] = {"k": 5} if name in ("knn", "lid") else {}
        learns = name in ("mahalanobis_fe", "mahalanobis_p_fe", "lid", "penultimate")
        detector: Detector = SourceClassifier(name) if learns else SourceScore(name)
        detector.bind(network(), **settings).fit(LOADER)
        scores = detector.predict(batches(seed=9)[0][0])
        assert scores.isfinite().all()
        known = [detector.predict(x) for x, _ in batches(60, seed=5)]
        assert np.mean(np.concatenate(known) <= detector.threshold_) > 0.8

    @pytest.mark.parametrize("name", ["mahalanobis", "vim", "mahalanobis_fe"])
    def test_thresholds_are_for_samples_that_the_source_has_not_seen(self, name: str) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
        known, unseen, outliers = torch.randn(200, 16), torch.randn(1000, 16), 3 * torch.rand(100, 16)
        y = torch.cat([torch.zeros(200), -torch.ones(100)]).long()
        loader = DataLoader(
            TensorDataset(torch.cat([known, outliers]), y), batch_size=30, shuffle=True
        )  # another order in each pass
        detector: Detector = SourceClassifier(name) if name == "mahalanobis_fe" else SourceScore(name)
        detector.bind(model).fit(loader)
        accepted = float((detector.predict(unseen) <= detector.threshold_).float().mean())
        assert 0.85 < accepted < 0.999
        if detector.learns:
            assert detector.predict_proba(unseen)[:, 1].mean() < 0.3

    def test_too_few_samples_to_leave_some_out_are_told(self) -> None:
        with pytest.warns(UserWarning, match="knn: got too few training samples to leave some out"):
            SourceScore("knn").bind(network(), k=9).fit(batches(10, seed=1))

    def test_outliers_are_left_out_by_what_does_not_learn_from_them(self) -> None:
        with_outliers = OneClassNorms(folds=2).bind(network()).fit(LOADER)
        without = OneClassNorms(folds=2).bind(network()).fit(LOADER[:12])
        torch.testing.assert_close(*(d.predict(batches(seed=9)[0][0]) for d in (with_outliers, without)))

    def test_a_loaded_detector_is_bound_again_and_knows_its_settings(self, tmp_path: Path) -> None:
        model = network()
        detector = Purview().bind(model, contrast="all-ones", layers="6").fit(LOADER)
        loaded = Detector.load(detector.save(tmp_path / "d"))
        x = batches(seed=9)[0][0]
        torch.testing.assert_close(loaded.bind(model).predict(x), detector.predict(x))
        with pytest.raises(InputError, match="model: not what the detector was fitted to: model fingerprint"):
            loaded.bind(network(1))
        with pytest.raises(InputError, match="contrast is 'one-hot', wanted 'all-ones'"):
            loaded.bind(model, contrast="one-hot")

    @pytest.mark.parametrize("name", sorted(SOURCES))
    def test_what_a_source_was_fitted_to_is_saved(self, name: str, tmp_path: Path) -> None:
        model = network()
        settings: dict[str, Any] = {"k": 5} if name in ("knn", "lid") else {}
        if SOURCES[name].record:
            settings["std"] = (0.5, 0.5, 0.5)
        learns = name in ("mahalanobis_fe", "mahalanobis_p_fe", "lid", "penultimate")
        detector: Detector = SourceClassifier(name) if learns else SourceScore(name)
        detector.bind(model, **settings).fit(LOADER)
        loaded = Detector.load(detector.save(tmp_path / "d")).bind(model)
        x = batches(seed=9)[0][0]
        torch.testing.assert_close(loaded.predict(x), detector.predict(x))
        np.testing.assert_array_equal(loaded.save(tmp_path / "e").name, "e")
        with pytest.raises(InputError, match=r"model fingerprint|source fingerprint"):
            Detector.load(tmp_path / "e").bind(network(1)).predict(x)

    @pytest.mark.parametrize("name", ["knn", "mahalanobis", "penultimate", "gradnorm", "lid"])
    def test_the_head_and_the_stages_that_were_named_are_saved_and_compared(
        self, name: str, tmp_path: Path
    ) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(*network()[:-1], nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5)).eval()
        settings: dict[str, Any] = {"k": 5} if name in ("knn", "lid") else {}
        detector: Detector = SourceClassifier(name) if name in ("penultimate", "lid") else SourceScore(name)
        detector.bind(model, head="6", stages=("2", "6"), **settings).fit(LOADER)
        x = batches(seed=9)[0][0]
        loaded = Detector.load(detector.save(tmp_path / "d"))
        torch.testing.assert_close(loaded.bind(model).predict(x), detector.predict(x), rtol=0, atol=0)
        with pytest.raises(InputError, match=r"source fingerprint is|wanted '|layers, wanted"):
            loaded.bind(model, head="8").predict(x)

    def test_settings_that_are_numpys_numbers_are_kept(self, tmp_path: Path) -> None:
        model, (x, _) = network(), batches(seed=9)[0]
        detector = Purview(tpr=np.float32(0.5), random_state=np.int64(3))  # type: ignore[arg-type]
        detector.bind(model, classes=np.array([0, 3])).fit(LOADER)
        loaded = Detector.load(detector.save(tmp_path / "norms")).bind(model)
        assert loaded.get_params() == {**detector.get_params(), "tpr": 0.5, "random_state": 3}
        found = StreamScorer({"one": detector, "two": loaded}).scores(x)
        np.testing.assert_array_equal(found["one"], found["two"])
        nearest = SourceScore("knn").bind(model, k=np.int64(5)).fit(LOADER)
        loaded = Detector.load(nearest.save(tmp_path / "source")).bind(model)
        torch.testing.assert_close(loaded.predict(x), nearest.predict(x))

    def test_maximum_softmax_refuses_another_model_too(self, tmp_path: Path) -> None:
        model, (x, _) = network(), batches(seed=9)[0]
        bound = MaximumSoftmax().bind(model).fit(LOADER)
        of_features = MaximumSoftmax().fit(FeatureExtractor(model).extract(x, progress=False))
        for number, detector in enumerate((bound, of_features)):
            loaded = Detector.load(detector.save(tmp_path / str(number)))
            torch.testing.assert_close(loaded.bind(model).predict(x), bound.predict(x))
            with pytest.raises(InputError, match="model fingerprint"):
                loaded.bind(network(1))

    def test_a_source_fitted_to_other_samples_is_refused(self, tmp_path: Path) -> None:
        model = network()
        detector = SourceScore("mahalanobis").bind(model).fit(LOADER)
        directory = detector.save(tmp_path / "d")
        loaded = Detector.load(directory).bind(model)
        loaded.reader.fit(batches(50, seed=8))
        with pytest.raises(InputError, match="source fingerprint"):
            loaded.predict(batches()[0][0])
        held = directory / "source.safetensors"
        held.write_bytes(held.read_bytes()[:-1])
        with pytest.raises(DetectorFileError, match="damaged"):
            Detector.load(directory)

    def test_bad_streams(self) -> None:
        bound = Purview().bind(network())
        with pytest.raises(InputError, match="is not bound to a model"):
            Purview().fit(LOADER)
        with pytest.raises(InputError, match="learns from known"):
            bound.fit(LOADER[:12])
        with pytest.raises(InputError, match="no in-distribution samples"):
            bound.fit(LOADER[12:])
        with pytest.raises(InputError, match="gave no samples"):
            bound.fit(iter([]))
        with pytest.raises(InputError, match="ends after one pass"):
            SourceScore("mahalanobis").bind(network()).fit(iter(LOADER))
        with pytest.raises(InputError, match="wanted those of FeatureExtractor"):
            Purview().bind(network(), depth=3)
        with pytest.raises(InputError, match="no source"):
            SourceScore("entropy").bind(network())
        for detector in (bound, SourceScore("energy").bind(network())):
            with pytest.raises(
                InputError, match=r"x: the model cannot take a float32 tensor of shape \[2, 1, 8, 8\]"
            ):
                detector.predict(torch.zeros(2, 1, 8, 8))


class TestStreamScorer:
    def test_scores_are_those_of_each_detector_alone(self) -> None:
        model = network()
        detectors: dict[str, Detector] = {
            "purview": Purview().bind(model, contrast="all-ones").fit(LOADER),
            "last": Purview().bind(model, contrast="all-ones", layers="6").fit(LOADER),
            "one hot": OneClassNorms(folds=2).bind(model).fit(LOADER),
            "energy": SourceScore("energy").bind(model).fit(LOADER),
            "odin": SourceScore("odin").bind(model).fit(LOADER),
            "distance": SourceScore("mahalanobis").bind(model).fit(LOADER),
            "softmax": MaximumSoftmax().bind(model).fit(LOADER),
        }
        test = batches(30, seed=9)
        found = StreamScorer(detectors).run(test)
        for name, detector in detectors.items():
            alone = np.concatenate(list(detector.score_stream(test)))
            np.testing.assert_allclose(found[name], alone, rtol=1e-5, atol=1e-6, err_msg=name)

    def test_takes_one_pass_per_batch_and_reads_no_further_than_asked(self) -> None:
        model = network()
        bound = [Purview().bind(model, layers=layers).fit(LOADER) for layers in ("6", "0", None)]
        sources = [
            SourceScore(name).bind(model).fit(LOADER) for name in ("energy", "gradnorm", "max_softmax")
        ]
        scorer = StreamScorer({str(i): detector for i, detector in enumerate([*bound, *sources])})
        passes: list[int] = []
        model.register_forward_hook(lambda *_: passes.append(1))
        read: list[int] = []

        def source() -> Iterator[Any]:
            for i, batch in enumerate(batches(50, seed=9)):
                read.append(i)
                yield batch

        stream = scorer.stream(source())
        next(stream)
        assert read == [0]
        first = len(passes)
        assert first <= 3  # the norms', the sources', and one to find the head
        next(stream)
        assert len(passes) - first <= 2

    def test_bad_scorers(self) -> None:
        with pytest.raises(InputError, match="got none"):
            StreamScorer({})
        with pytest.raises(InputError, match="not bound"):
            StreamScorer({"a": Purview()})


class TestPytorchOod:
    def test_is_a_detector_of_pytorch_ood_without_importing_it(self) -> None:
        pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")
        code = (
            "import sys; from gradfast.detectors import Purview, SourceScore; d = Purview();"
            "assert 'pytorch_ood' not in sys.modules;"
            "import pytorch_ood.api as api; import inspect; inspect.getsource(api);"
            "assert isinstance(d, api.Detector) and issubclass(SourceScore, api.Detector);"
            "assert not any(type(f).__module__.startswith('gradfast') for f in sys.meta_path)"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)

    def test_its_metrics_take_our_scores(self) -> None:
        metrics = pytest.importorskip("pytorch_ood.metrics", reason="pytorch-ood is not installed")
        detector = Purview().bind(network()).fit(LOADER)
        test = [*batches(60, seed=5), *batches(60, seed=6, label=-1)]
        theirs = metrics.OODMetrics()
        for x, y in test:
            theirs.update(detector(x), y)
        known, unknown = (
            np.concatenate([detector.predict(x) for x, y in test if bool((y < 0).all()) == out])
            for out in (False, True)
        )
        assert theirs.compute()["AUROC"] == pytest.approx(evaluate(known, unknown).auroc, abs=1e-5)

    def test_feature_level_methods_follow_its_conventions(self) -> None:
        X = np.concatenate([norms(60, 0), norms(40, 1, 1.5)])
        y = np.where(np.arange(100) < 60, np.arange(100) % 7, -1)
        detector = Purview().fit_features(torch.from_numpy(X), torch.from_numpy(y))
        expected = Purview().fit(X[:60], X[60:]).score(X)
        np.testing.assert_allclose(detector.predict_features(torch.from_numpy(X)), expected, rtol=1e-6)
        assert detector.requires_fit
        assert detector.device is None
        assert Purview().bind(network()).to("cpu").device == torch.device("cpu")
        with pytest.raises(InputError, match=r"labels: got shape \[3\] for 100"):
            detector.fit_features(X, y[:3])


def test_every_method_is_listed_with_what_it_reads_and_where_it_is_from() -> None:
    assert {info.reads for info in METHODS.values()} == {NORMS, *SOURCES}
    for name, info in METHODS.items():
        assert info.name == name
        assert info.make().learns is info.learns
        assert len(info.citation) > 40
    with pytest.raises(InputError, match="nearest: 'mahalanobis'"):
        method("mahalanobi")


def test_norms_of_a_batch_are_compared_with_those_of_the_fit() -> None:
    model = network()
    known, unknown = (torch.cat([x for x, _ in half]) for half in (LOADER[:12], LOADER[12:]))
    for detector in (
        Purview().fit(grad_norms(model, known), grad_norms(model, unknown)),
        Purview().bind(model).fit(LOADER),
    ):
        assert detector.score(grad_norms(model, known)).shape == (120,)
        with pytest.raises(InputError, match="loss is 'mse', wanted 'cross_entropy'"):
            detector.score(grad_norms(model, known, loss="mse"))
        with pytest.raises(InputError, match="contrast is 'all-ones', wanted 'one-hot'"):
            detector.score(grad_norms(model, known, contrast="all-ones"))
        with pytest.raises(InputError, match=r"classes is \[4, 3, 2, 1, 0\], wanted None"):
            detector.score(grad_norms(model, known, classes=[4, 3, 2, 1, 0]))


def test_log_scale_can_be_left_out() -> None:
    plain = Purview(log=False, folds=None).fit(features(80, 0), features(80, 1, 1.5))
    assert plain.classifier_.scaling_.offset_ is None
    assert np.isfinite(plain.score(features(5, 2))).all()
