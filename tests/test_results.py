"""What comes back, which layers are chosen, and the options that are text."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from closeness import assert_close
from torch import Tensor, nn
from zoo import USES

import gradfast
from gradfast import reference
from gradfast.errors import InputError
from gradfast.options import parse_dtype, parse_memory_budget
from gradfast.selection import parameter_aliases, select_layers

NAMES = ("conv1.weight", "layer1.0.conv.weight", "layer1.0.bn.bias", "layer10.weight", "fc.weight", "fc.bias")


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (None, NAMES),
        ("fc.bias", ("fc.bias",)),
        ("fc", ("fc.weight", "fc.bias")),
        ("layer1", ("layer1.0.conv.weight", "layer1.0.bn.bias")),
        ("layer1*", ("layer1.0.conv.weight", "layer1.0.bn.bias", "layer10.weight")),
        ("*.bias", ("layer1.0.bn.bias", "fc.bias")),
        (["fc.bias", "conv1"], ("conv1.weight", "fc.bias")),
        (["fc", "fc.*"], ("fc.weight", "fc.bias")),
        ("layer1.?.*.weight", ("layer1.0.conv.weight",)),
    ],
)
def test_names_prefixes_and_globs(patterns: str | list[str] | None, chosen: tuple[str, ...]) -> None:
    assert select_layers(NAMES, patterns) == chosen


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("fc.weigth", "no parameter is called 'fc.weigth'; nearest: 'fc.weight'"),
        (["fc", "layer2"], "no parameter is called 'layer2'; nearest: 'layer1'"),
        ("zzz", "wanted one of 'conv1.weight', "),
        ("zzz", "and 1 more"),
        ([], "wanted None, or names"),
        (3, "got 3 (int); wanted None, or names"),
        ([1], "got [1] (list)"),
    ],
)
def test_patterns_that_choose_nothing(patterns: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        select_layers(NAMES, patterns)  # type: ignore[arg-type]
    assert str(caught.value).startswith("layers: ")
    assert message in str(caught.value)


def test_every_name_of_a_tied_parameter_selects_it(api: ModuleType) -> None:
    model, x = USES["tied-embedding-last-token"].build()
    assert parameter_aliases(model) == {"head.weight": "embed.weight"}
    every = api.grad_norms(model, x)
    for name in ("head", "head.weight", "embed"):
        result = api.grad_norms(model, x, layers=name)
        assert result.layers == ("embed.weight",)
        assert_close(result.values, every.select("embed.weight").values, result.layers, 1e-5)


@pytest.mark.parametrize("layers", ["head", ["a.weight", "*.bias"], "ln"])
def test_fewer_layers_are_the_same_numbers(api: ModuleType, layers: str | list[str]) -> None:
    model, x = USES["sequence-first"].build(torch.float64)
    truth = reference.grad_norms(model, x).select(layers)
    result = api.grad_norms(model, x, layers=layers)
    assert result.layers == truth.layers
    assert_close(result.values, truth.values, truth.layers, 1e-9)


def test_one_layer_by_name(api: ModuleType) -> None:
    model, x = USES["layer-scale"].build()
    norms, gram = api.grad_norms(model, x), api.grad_gram(model, x)
    for i, name in enumerate(norms.layers):
        assert torch.equal(norms[name], norms.values[..., i])
        assert torch.equal(gram[name], gram.values[:, i])
    for of in (norms, gram):
        with pytest.raises(
            InputError, match=r"layer: no parameter is called 'head.weigth'; nearest: 'head.weight'"
        ):
            of["head.weigth"]
        with pytest.raises(InputError, match=r"layer: got 0 \(int\); wanted the name of a parameter"):
            of[0]  # type: ignore[index]


def cost(z: Tensor, t: Tensor) -> Tensor:
    return (z - t).abs().sum(1)


@pytest.mark.parametrize("module", ["gradfast", "gradfast.reference"])
def test_settings_say_which_rows_they_are(module: str) -> None:
    grad_norms = importlib.import_module(module).grad_norms
    model, x = nn.Linear(5, 4), torch.randn(3, 5)
    plain = {"contrast": "one-hot", "loss": "cross_entropy", "classes": None}
    assert grad_norms(model, x).settings == plain
    assert grad_norms(model, x, classes=(0, 2)).settings == {**plain, "classes": [0, 2]}
    ones = grad_norms(model, x, contrast="all-ones")
    assert ones.settings == {**plain, "contrast": "all-ones", "loss": "bce"}
    targets = grad_norms(model, x, contrast=torch.eye(4), loss=cost)
    assert targets.settings == {"loss": f"{__name__}.cost", "classes": None}


def test_settings_of_norms_of_a_gram_matrix() -> None:
    norms = gradfast.grad_gram(nn.Linear(5, 4), torch.randn(3, 5)).norms("all-ones")
    assert norms.settings == {"contrast": "all-ones", "loss": "bce", "classes": None}


def test_select_and_repr(api: ModuleType) -> None:
    model, x = USES["layer-scale"].build()
    norms = api.grad_norms(model, x)
    assert repr(norms) == "GradNorms(3 samples x 4 rows x 5 layers, float32, cpu)"
    few = norms.select(["head", "gamma"])
    assert few.layers == ("gamma", "head.weight", "head.bias")
    assert torch.equal(few.values, norms.values[..., [0, 3, 4]])
    assert set(few.fallback) <= set(few.layers)
    with pytest.raises(InputError, match="nearest: 'gamma'"):
        norms.select("gama")
    gram = api.grad_gram(model, x)
    assert repr(gram) == "GradGram(3 samples x 5 layers x 4 x 4 logits, float32, cpu)"
    assert torch.equal(gram.select("head").values, gram.values[:, 3:])
    dots = api.grad_dots(model, x, {"gamma": torch.ones(5)})
    assert repr(dots) == "GradDots(3 samples x 4 rows x 1 layers, float32, cpu)"


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "bce_softmax", "mse"])
@pytest.mark.parametrize("contrast", ["one-hot", "all-ones", torch.rand(2, 4), torch.rand(3, 2, 4)])
def test_one_gram_matrix_gives_the_norms_of_every_loss(
    api: ModuleType, contrast: str | Tensor, loss: str
) -> None:
    model, x = USES["conv-at-two-scales"].build(torch.float64)
    truth = reference.grad_norms(model, x, contrast=contrast, loss=loss)
    result = api.grad_gram(model, x).norms(contrast, loss)
    assert_close(result.values, truth.values, truth.layers, 1e-9)
    torch.testing.assert_close(result.logits, truth.logits)


def test_gram_matrices_for_chosen_classes(api: ModuleType) -> None:
    model, x = nn.Linear(5, 4).double(), torch.randn(3, 5, dtype=torch.float64)
    for classes in ([2, 0], 2):
        truth = reference.grad_norms(model, x, classes=classes)
        result = api.grad_gram(model, x).norms(classes=classes)
        assert torch.equal(result.classes, truth.classes)
        assert_close(result.values, truth.values, truth.layers, 1e-9)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, None),
        (1, 1),
        (2**31, 2**31),
        ("2GB", 2 * 10**9),
        ("2 GB", 2 * 10**9),
        ("1.5gb", 15 * 10**8),
        ("512MiB", 512 * 2**20),
        ("64kb", 64000),
        (".5G", 5 * 10**8),
        ("4096", 4096),
        ("1TiB", 2**40),
    ],
)
def test_memory_budgets(value: int | str | None, size: int | None) -> None:
    assert parse_memory_budget(value) == size


@pytest.mark.parametrize("value", ["", "GB", "2 XB", "two GB", "-1GB", "0", 0, -5, True, 2.5, "1e9", "2GB!"])
def test_memory_budgets_that_are_none(value: object) -> None:
    with pytest.raises(InputError, match=r"memory_budget: got .*; wanted bytes above 0"):
        parse_memory_budget(value)  # type: ignore[arg-type]


def test_compute_dtypes() -> None:
    assert parse_dtype(None) is None
    assert parse_dtype(torch.bfloat16) is torch.bfloat16
    for value in (torch.int8, torch.complex64, "bfloat16", 16):
        with pytest.raises(InputError, match=r"dtype: got .*; wanted None or one of torch.float32"):
            parse_dtype(value)  # type: ignore[arg-type]
