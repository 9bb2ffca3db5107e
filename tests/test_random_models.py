"""Random models: chains of layers, reshapes and reuses that nobody thought of, against plain autograd in float64."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch
from closeness import assert_close
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_steps import POOLS, STEPS, D, Model, T
from zoo.base import randomise

from gradfast import reference

pytestmark = pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")


@st.composite
def models(draw: st.DrawFn) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 1000)))
        steps = st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from("ab"))
        model = Model(draw(st.lists(steps, min_size=1, max_size=6)), draw(st.sampled_from(POOLS)))
        randomise(model)
    return model.double().eval()


# `make fuzz` looks for new models, all night if told to; the tests look at the same ones each time.
FUZZ = int(os.environ.get("GRADFAST_FUZZ", "0"))


@settings(
    max_examples=FUZZ or 120,
    derandomize=not FUZZ,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(model=models(), b=st.integers(1, 5), layers=st.sampled_from([None, "head", "layers"]))
def test_random_model(api: ModuleType, model: Model, b: int, layers: str | None) -> None:
    if layers == "layers" and not len(model.layers):
        layers = None
    x = torch.randn(b, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(b))
    truth = reference.grad_norms(model, x, layers=layers, classes=[1, 3])
    result = api.grad_norms(model, x, layers=layers, classes=[1, 3])
    assert result.layers == truth.layers
    assert_close(result.values, truth.values, truth.layers, 1e-9)


def test_a_model_that_gives_all_layers_no_gradient(api: ModuleType) -> None:
    """Found by `make fuzz`: the layer works on positions that the pooling leaves out, so that all its norms are zero."""
    model = Model([("linear-some-positions", "a")], "last").double().eval()
    x = torch.randn(1, T, D, dtype=torch.float64)
    truth = reference.grad_norms(model, x, layers="layers", classes=[1, 3])
    assert not truth.values.any()
    result = api.grad_norms(model, x, layers="layers", classes=[1, 3])
    assert_close(result.values, truth.values, truth.layers, 1e-9)
