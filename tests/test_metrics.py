"""Detection metrics against cases computed by hand and, on random scores with ties, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gradfast.detectors import metrics
from gradfast.errors import InputError

scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=30)


def test_perfect_separation() -> None:
    result = metrics.evaluate([1.0, 2.0, 3.0], [4.0, 5.0])
    assert result.as_dict() == {"auroc": 1, "aupr_in": 1, "aupr_out": 1, "detection_accuracy": 1, "fpr95": 0}


def test_by_hand_with_one_inversion() -> None:
    # Ascending: in 1, in 2, out 3, in 4, out 5. Of 6 (in, out) pairs one is inverted.
    inside, outside = [1.0, 2.0, 4.0], [3.0, 5.0]
    result = metrics.evaluate(inside, outside)
    assert result.auroc == pytest.approx(5 / 6)
    # In as positives, retrieved from the low end: precision 1, 1 at the first two, 3/4 at the third; recall
    # steps 1/3.
    assert result.aupr_in == pytest.approx((1 + 1 + 3 / 4) / 3)
    # Out as positives, from the high end: precision 1 at the first, 2/3 at the second; recall steps 1/2.
    assert result.aupr_out == pytest.approx((1 + 2 / 3) / 2)
    # Best threshold 2: TPR 2/3, FPR 0 -> 5/6; threshold 4: TPR 1, FPR 1/2 -> 3/4.
    assert result.detection_accuracy == pytest.approx(5 / 6)
    # 95% of 3 samples needs all 3: threshold 4 lets one of two outliers through.
    assert result.fpr95 == pytest.approx(1 / 2)
    assert metrics.fpr_at_tpr(inside, outside, tpr=0.6) == 0


def test_all_tied_is_chance() -> None:
    result = metrics.evaluate([0.0] * 3, [0.0])
    assert result.auroc == pytest.approx(0.5)
    assert result.aupr_in == pytest.approx(3 / 4)  # the share of positives
    assert result.aupr_out == pytest.approx(1 / 4)
    assert result.detection_accuracy == pytest.approx(0.5)
    assert result.fpr95 == 1


def test_tie_between_kinds_counts_half() -> None:
    # Pairs (1, 2) right, (1, 3) right, (2, 2) tied, (2, 3) right.
    assert metrics.auroc([1.0, 2.0], [2.0, 3.0]) == pytest.approx(3.5 / 4)


def test_share_that_is_a_whole_number_of_samples_asks_for_no_more() -> None:
    inside = np.arange(20.0)
    assert metrics.threshold_at_tpr(inside, 0.95) == 18  # 19 of the 20
    assert metrics.fpr_at_tpr(inside, [18.5, 19.0], 0.95) == 0


@settings(max_examples=150, deadline=None)
@given(inside=scores, outside=scores)
def test_agrees_with_scikit_learn(inside: list[float], outside: list[float]) -> None:
    values = np.array(inside + outside)
    is_out = np.repeat([0, 1], [len(inside), len(outside)])
    result = metrics.evaluate(inside, outside)
    assert result.auroc == pytest.approx(sklearn_metrics.roc_auc_score(is_out, values))
    assert result.aupr_out == pytest.approx(sklearn_metrics.average_precision_score(is_out, values))
    assert result.aupr_in == pytest.approx(sklearn_metrics.average_precision_score(1 - is_out, -values))
    fpr, tpr, _ = sklearn_metrics.roc_curve(1 - is_out, -values, drop_intermediate=False)
    assert result.detection_accuracy == pytest.approx(np.max(tpr + 1 - fpr) / 2)
    assert result.fpr95 == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min())


@settings(max_examples=50, deadline=None)
@given(inside=scores, outside=scores)
def test_mirrored_scores_swap_the_roles(inside: list[float], outside: list[float]) -> None:
    straight = metrics.evaluate(inside, outside)
    mirrored = metrics.evaluate([-s for s in outside], [-s for s in inside])
    assert mirrored.auroc == pytest.approx(straight.auroc)
    assert mirrored.aupr_in == pytest.approx(straight.aupr_out)
    assert mirrored.detection_accuracy == pytest.approx(straight.detection_accuracy)


def test_infinite_scores_are_ordered() -> None:
    assert metrics.auroc([-np.inf, 0.0], [np.inf, 1.0]) == 1


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([1.0], [], "scores_out: got no scores"),
        ([], [1.0], "scores_in: got no scores"),
        ([0.0, np.nan, np.nan], [1.0], r"scores_in: 2 of 3 scores are NaN \(the first at 1\)"),
        ([0.0], [[1.0, 2.0]], r"scores_out: got shape \[1, 2\]"),
    ],
)
def test_bad_scores(inside: list[float], outside: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.evaluate(inside, outside)


@pytest.mark.parametrize("tpr", [0.0, 1.5, float("nan")])
def test_bad_tpr(tpr: float) -> None:
    with pytest.raises(InputError, match="tpr: got"):
        metrics.fpr_at_tpr([0.0], [1.0], tpr)
