"""Bad input gets an error that names the argument, what came and what was wanted; a bad sample spoils no other."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from torch import Tensor, nn
from zoo import LAYERS, USES, Case
from zoo.base import Function

import gradfast
from gradfast import reference
from gradfast.errors import GradfastError, InputError, ModelError

BOTH = pytest.mark.parametrize("module", [gradfast, reference], ids=["gradfast", "reference"])
NAMES = ["grad_norms", "grad_gram", "grad_dots"]


def call(module: ModuleType, name: str, model: Any, x: Any, **options: Any) -> Any:
    if name == "grad_dots":
        options.setdefault("reference", {n: torch.ones_like(p) for n, p in model.named_parameters()})
    return getattr(module, name)(model, x, **options)


def fails(error: type[GradfastError], *parts: str) -> Any:
    """Expects an error whose message starts with the first part, and has the others and a wish."""
    pattern = "^" + "".join(f"(?=.*(?:{part}))" if i else part for i, part in enumerate((*parts, "wanted")))
    return pytest.raises(error, match=f"(?s){pattern}")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


# The model
@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.SyncBatchNorm(6), nn.BatchNorm1d(6, affine=False)])
def test_batch_norm_in_train_mode(norm: nn.Module, name: str, module: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(5, 6), norm, nn.Linear(6, 4)).eval()
    norm.train()
    with fails(ModelError, "model: ", "1 ", "BatchNorm", "train mode", r"model\.eval\(\)"):
        call(module, name, model, X)


@BOTH
def test_batch_norm_without_running_statistics(module: ModuleType) -> None:
    model = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 4)
    ).eval()
    with fails(
        ModelError, "model: ", r"1 \(BatchNorm1d\)", "no running statistics", "track_running_stats=True"
    ):
        module.grad_norms(model, X)


MIXING = {
    "batch-norm": lambda m, x: m.head(F.batch_norm(m.a(x), None, None, training=True)),
    "minus-batch-mean": lambda m, x: m.head(m.a(x) - m.a(x).mean(0)),
    "softmax-over-batch": lambda m, x: m.head(m.a(x).softmax(0)),
    "attention-over-batch": lambda m, x: m.head((m.a(x) @ m.a(x).t()).softmax(1) @ x),
    "reversed-batch": lambda m, x: m.head(m.a(x).flip(0)),
    "previous-sample": lambda m, x: m.head(m.a(x) + m.a(x).roll(1, 0)),
}


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_samples_that_mix_in_the_forward_pass(name: str, api: ModuleType) -> None:
    """No module tells that they do. Refused, or each sample's loss of this very pass: never what is neither."""
    model = Function(MIXING[name], a=nn.Linear(5, 5), head=nn.Linear(5, 4)).double()
    x = X.double()
    z = model(x)
    truth = torch.zeros(3, 4, 4, dtype=torch.float64)
    for b in range(3):
        for c in range(4):
            loss = F.cross_entropy(z[b], torch.tensor(c))
            gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            truth[b, c] = torch.stack([g.square().sum() for g in gradients])
    with contextlib.suppress(ModelError):
        result = api.grad_norms(model, x)
        torch.testing.assert_close(result.logits, z.detach())
        assert_close(result.values, truth, result.layers, 1e-9)


@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("tail", "came"),
    [
        (lambda z: z[:, None], r"shape \[\d, 1, 4\]"),
        (lambda z: z.sum(1), r"shape \[\d\]"),
        (lambda z: z.sum(0), r"shape \[4\]"),
        (lambda z: (z, z), "tuple"),
        (lambda z: {"out": z}, "dict"),
        (lambda z: torch.cat([z, z]), r"shape \[\d, 4\]"),
        (lambda z: None, "None"),
    ],
)
def test_output_that_is_no_logits(tail: Any, came: str, name: str, module: ModuleType) -> None:
    model = Function(lambda m, x: tail(m.a(x)), a=nn.Linear(5, 4))
    with fails(ModelError, "model: ", "output", came, r"\[B, K\]|\[1, K\]"):
        call(module, name, model, X)


@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "tail",
    [
        lambda z: z.detach(),
        lambda z: torch.zeros(len(z), 4),
        lambda z: z.argmax(1, keepdim=True).float().expand(-1, 4),
    ],
)
def test_output_that_depends_on_no_parameter(tail: Any, name: str, module: ModuleType) -> None:
    model = Function(lambda m, x: tail(m.a(x)), a=nn.Linear(5, 4))
    with fails(ModelError, "model: ", "does not depend on"):
        call(module, name, model, X)


@BOTH
def test_output_of_integers(module: ModuleType) -> None:
    model = Function(lambda m, x: m.a(x).argmax(1, keepdim=True), a=nn.Linear(5, 4))
    with fails(ModelError, "model: ", "int64", "floating"):
        module.grad_norms(model, X)


@BOTH
def test_output_that_depends_on_none_of_the_chosen_layers(module: ModuleType) -> None:
    model, x = USES["unused-parameter"].build()
    with fails(ModelError, "model: ", "does not depend on any of the selected parameters"):
        module.grad_norms(model, x, layers="spare")


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_parameters(name: str, module: ModuleType) -> None:
    with fails(
        ModelError if name != "grad_dots" else GradfastError,
        "model: ",
        "Sequential has no floating parameters",
    ):
        call(
            module, name, nn.Sequential(nn.Flatten()), X, **({"reference": {}} if name == "grad_dots" else {})
        )


@BOTH
def test_a_model_that_is_none(module: ModuleType) -> None:
    with fails(InputError, "model: ", "function", "torch.nn.Module"):
        module.grad_norms(lambda x: x, X)


@BOTH
def test_a_models_own_error_comes_through(module: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        module.grad_norms(mlp(), torch.randn(3, 7))
    assert not isinstance(caught.value, GradfastError)


# Contrasts, classes, layers, options
@BOTH
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"classes": [0, 4]}, ("classes: ", r"\[4\]", "from 0 to 3")),
        ({"classes": 5}, ("classes: ", "top 5", "at most 4")),
        ({"classes": [-1]}, ("classes: ", r"\[-1\]")),
        ({"classes": [2, 2]}, ("classes: ", "more than once")),
        ({"classes": [1], "contrast": "all-ones"}, ("classes: ", r"\[1\]")),
        ({"contrast": torch.ones(2, 3)}, ("contrast: ", r"\[2, 3\]", r"\[C, 4\]")),
        ({"contrast": torch.ones(2, 1, 4)}, ("contrast: ", r"\[2, 1, 4\]", r"\[3, C, K\]")),
        ({"contrast": torch.tensor([0, 1, 2])}, ("contrast: ", r"\[3\]", r"\[C, K\]")),
        ({"contrast": "ones"}, ("contrast: ", "'ones'")),
        ({"loss": "nll"}, ("loss: ", "'nll'")),
        ({"loss": lambda z, t: z.mean()}, ("loss: ", r"shape \[\]", "one value per sample")),
    ],
)
def test_contrasts(options: dict[str, Any], parts: tuple[str, ...], module: ModuleType) -> None:
    with fails(InputError, *parts):
        module.grad_norms(mlp(), X, **options)


@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"layers": "0.wieght"}, ("layers: ", "'0.wieght'", "nearest: '0.weight'")),
        ({"layers": ["0", "fc"]}, ("layers: ", "'fc'", "'0.weight'")),
        ({"layers": []}, ("layers: ", r"\[\]")),
        ({"memory_budget": "2 XB"}, ("memory_budget: ", "'2 XB'", "2GB")),
        ({"memory_budget": 0}, ("memory_budget: ", "0")),
        ({"dtype": torch.int8}, ("dtype: ", "torch.int8", "torch.bfloat16")),
        ({"dtype": "half"}, ("dtype: ", "'half'", "torch.bfloat16")),
    ],
)
def test_options(options: dict[str, Any], parts: tuple[str, ...], name: str, module: ModuleType) -> None:
    *parts_, last = parts
    with pytest.raises(InputError, match="(?s)^" + parts_[0]) as caught:
        call(module, name, mlp(), X, **options)
    for part in (*parts_[1:], last):
        assert part.replace("\\", "") in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({}, ("reference: ", "{}", "dict")),
        ([torch.ones(4)], ("reference: ", "list", "dict")),
        ({"0.bais": torch.ones(6)}, ("reference: ", "'0.bais'", "nearest: '0.bias'")),
        ({"0.bias": torch.ones(5)}, ("reference: ", "'0.bias'", r"\[5\]", r"\[6\]")),
        ({"0.bias": 1.0}, ("reference: ", "'0.bias'", "1.0", r"\[6\]")),
    ],
)
def test_reference_gradients(given: Any, parts: tuple[str, ...], module: ModuleType) -> None:
    with pytest.raises(InputError, match="(?s)^" + "".join(f"(?=.*{part})" for part in parts)):
        module.grad_dots(mlp(), X, given)


# The input
@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (torch.ones(0, 5), ("x: ", r"\[0, 5\]", "empty batch", "at least one sample")),
        (torch.tensor(1.0), ("x: ", "no tensor with a batch dimension")),
        (np.ones((3, 5), np.float32), ("x: ", "ndarray", "a tensor")),
        (None, ("x: ", "None", "a tensor")),
        ("image.png", ("x: ", "'image.png'", "a tensor")),
        ((), ("x: ", "no tensor")),
        ((X, X[:2]), ("x: ", r"x\[0\]", r"\[3, 5\]", r"x\[1\]", r"\[2, 5\]", "the same leading dimension")),
        ({"a": X, "b": X[:1]}, ("x: ", "x\\['b'\\]", r"\[1, 5\]", "the same leading dimension")),
        (X.to("meta"), ("x: ", "meta", "on cpu")),
        ((X, X.to("meta")), ("x: ", r"x\[1\]", "meta", "on cpu")),
    ],
)
def test_inputs(x: Any, parts: tuple[str, ...], name: str, module: ModuleType) -> None:
    with fails(InputError, *parts):
        call(module, name, mlp(), x)


@BOTH
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(75, 4)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(75, 4)).eval(),
        nn.Sequential(nn.LayerNorm(5), nn.Flatten(), nn.Linear(75, 4)),
        nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(75, 4)),
    ],
    ids=lambda model: type(model[0]).__name__,
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
def test_inputs_of_another_dtype_than_the_model(
    dtype: torch.dtype, model: nn.Module, name: str, module: ModuleType
) -> None:
    with fails(InputError, "x: ", str(dtype).removeprefix("torch."), "torch.float32"):
        call(module, name, model, torch.ones(3, 3, 5, 5, dtype=dtype))


@BOTH
def test_floats_for_an_embedding(module: ModuleType) -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Flatten(), nn.Linear(20, 4))
    with fails(InputError, "x: ", "float32", "integer"):
        module.grad_norms(model, torch.ones(3, 4))


@BOTH
@pytest.mark.parametrize("name", NAMES)
def test_models_on_other_devices(name: str, module: ModuleType) -> None:
    with fails(ModelError, "model: ", "0.weight", "meta device", "with its weights"):
        call(module, name, mlp().to("meta"), X.to("meta"))
    torn = mlp()
    torn[2].to("meta")
    with fails(
        ModelError, "model: ", "several devices", "0.weight on cpu", "2.weight on meta", "all of them on one"
    ):
        call(module, name, torn, X)


@pytest.mark.cuda
def test_model_and_input_on_different_devices(api: ModuleType) -> None:
    with fails(InputError, "x: ", "cpu", "cuda:0"):
        api.grad_norms(mlp().cuda(), X)


# Samples that are broken
BREAKABLE = [
    USES["in-place-relu"],
    USES["frames-folded"],
    USES["shifted-windows"],
    USES["class-token"],
    USES["weight-norm-linear"],
    USES["linear-recurrent"],
    LAYERS["linear"],
    LAYERS["linear-many-positions"],
    LAYERS["conv2d-depthwise"],
    LAYERS["conv2d-circular"],
    LAYERS["conv-transpose2d-stride"],
    LAYERS["batch-norm2d"],
    LAYERS["layer-norm-image"],
    LAYERS["group-norm"],
    LAYERS["lstm"],
    LAYERS["transformer-encoder-layer"],
]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("case", BREAKABLE, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")
def test_a_broken_sample_spoils_no_other(case: Case, broken: float, api: ModuleType) -> None:
    model, x = case.build(torch.float64)
    assert isinstance(x, Tensor)
    truth = reference.grad_norms(model, x)
    bad = x.clone()
    bad[1].view(-1)[2::5] = broken
    result = api.grad_norms(model, bad)
    others = [b for b in range(len(x)) if b != 1]
    assert_close(result.values[others], truth.values[others], truth.layers, 1e-9)
    # What the reference finds broken is broken here, too, and nothing else.
    assert torch.equal(result.values[1].isfinite(), reference.grad_norms(model, bad).values[1].isfinite())


def test_a_nan_sample_has_nan_norms(api: ModuleType) -> None:
    model, x = mlp(), X.clone()
    x[1, 0] = torch.nan
    values = api.grad_norms(model, x).values
    assert values[1].isnan().all()
    assert values[[0, 2]].isfinite().all()
