"""The demonstration, whole, and the training that it rests on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gradfast.data.digits import load_digits_split
from gradfast.demo import DemoResult, run_demo
from gradfast.demo.network import DigitNet, accuracy, train
from gradfast.detectors.evaluation import LEFT_OUT, NO_OUTLIERS, SAME_SET


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def demo(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo"), say=said.append)


def test_the_network_knows_its_digits_and_the_steps_are_told(demo: DemoResult, said: list[str]) -> None:
    assert demo.test_accuracy > 0.97
    assert len(said) == 3
    assert "gradient norms" in said[1]


def test_every_method_set_and_protocol_is_there(demo: DemoResult) -> None:
    found = {(o.method, o.protocol) for o in demo.outcomes}
    assert found == {
        ("Purview, one-hot", SAME_SET),
        ("Purview, one-hot", LEFT_OUT),
        ("Purview, all-ones", SAME_SET),
        ("Purview, all-ones", LEFT_OUT),
        ("maximum softmax", NO_OUTLIERS),
    }
    sets = {o.out_set for o in demo.outcomes}
    assert len(sets) == 6
    assert len(demo.outcomes) == len(found) * len(sets)


def test_gradient_norms_separate_what_the_network_does_not_know(demo: DemoResult) -> None:
    def mean_auroc(method: str, protocol: str) -> float:
        return float(
            np.mean([o.mean.auroc for o in demo.outcomes if (o.method, o.protocol) == (method, protocol)])
        )

    softmax = mean_auroc("maximum softmax", NO_OUTLIERS)
    for method in ("Purview, one-hot", "Purview, all-ones"):
        assert mean_auroc(method, SAME_SET) > max(0.94, softmax)
        assert mean_auroc(method, LEFT_OUT) > 0.85
        assert mean_auroc(method, LEFT_OUT) < mean_auroc(method, SAME_SET)


def test_the_report_states_both_protocols(demo: DemoResult) -> None:
    html = demo.report.read_text("utf-8")
    assert "upper end" in html
    assert "has seen nothing of the kind" in html
    assert html.count("<svg ") == 3
    assert html.count("data:image/png;base64,") == 7
    assert Path(demo.report).stat().st_size < 2_000_000


def test_training_is_seeded_and_leaves_the_random_state_alone() -> None:
    x, y = load_digits_split(seed=1).train
    x, y = x[:200], y[:200]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        train(x, y, epochs=2, seed=3),
        train(x, y, epochs=2, seed=3),
        train(x, y, epochs=2, seed=4),
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    assert isinstance(first, DigitNet)
    with torch.no_grad():
        assert torch.equal(first(x), again(x))
        assert not torch.equal(first(x), other(x))
    assert accuracy(first, x, y) > 0.3
