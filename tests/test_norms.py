"""Contrasts, losses, products and Gram matrices, chunks under a memory budget, and a number that a peer gets wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_close
from torch import Tensor, nn
from zoo import LAYERS, USES, Case
from zoo.networks import NETWORKS

import gradfast
from gradfast import reference
from gradfast.errors import FallbackWarning, InputError
from gradfast.inputs import Inputs, slice_batch

pytestmark = pytest.mark.filterwarnings("ignore::gradfast.errors.FallbackWarning")

# One- and three-dimensional convolutions share their code with two-dimensional ones: norms alone for those.
CASES = [
    pytest.param(case, id=name)
    for name, case in {**LAYERS, **USES}.items()
    if not name.startswith(("conv1d", "conv3d", "conv-transpose1d", "conv-transpose3d"))
]


def some_gradients(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()
    }


@pytest.mark.parametrize("case", CASES)
def test_dots(case: Case, api: ModuleType) -> None:
    check_dots(api, *case.build(torch.float64))


def check_dots(api: ModuleType, model: nn.Module, x: Inputs, **options: Any) -> None:
    """Relative to the product of the norms, for an inner product cancels; and linear in the noise of a zero gradient."""
    some = some_gradients(model)
    truth = reference.grad_dots(model, x, some, **options)
    norms = reference.grad_norms(model, x, **options).values
    result = api.grad_dots(model, x, some, **options)
    assert result.layers == truth.layers
    scale = (norms * torch.stack([some[n].square().sum() for n in truth.layers])).sqrt()
    assert_close(result.values, truth.values, truth.layers, 1e-9, scale, noise=1e-5)


@pytest.mark.parametrize(
    "name", ["linear-recurrent", "in-place-residual", "conv-at-two-scales", "class-token", "layer-scale"]
)
def test_cosines(name: str, api: ModuleType) -> None:
    model, x = USES[name].build(torch.float64)
    some = some_gradients(model)
    some[next(iter(some))] = torch.zeros_like(next(iter(some.values())))
    truth = reference.grad_cosines(model, x, some, classes=[2, 0])
    assert truth.values[..., 0].isnan().all()
    result = api.grad_cosines(model, x, some, classes=[2, 0])
    assert result.layers == truth.layers
    assert result.settings == truth.settings
    torch.testing.assert_close(result.values, truth.values, rtol=0, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
def test_gram_matrices(case: Case, api: ModuleType) -> None:
    model, x = case.build(torch.float64)
    truth = reference.grad_gram(model, x)
    result = api.grad_gram(model, x)
    assert result.layers == truth.layers
    torch.testing.assert_close(result.values, result.values.mT, rtol=1e-9, atol=1e-12)
    diagonal = truth.values.diagonal(dim1=2, dim2=3).sqrt()
    scale = (diagonal[..., :, None] * diagonal[..., None, :]).flatten(2).mT
    assert_close(result.values.flatten(2).mT, truth.values.flatten(2).mT, truth.layers, 1e-9, scale)


LOSSES = {
    "default": None,
    "cross_entropy": "cross_entropy",
    "bce": "bce",
    "bce_softmax": "bce_softmax",
    "mse": "mse",
    "callable": lambda z, t: F.huber_loss(z, t, reduction="none").sum(1),
}
CONTRASTS = {
    "every-class": {},
    "some-classes": {"classes": [3, 0]},
    "top-class": {"classes": 1},
    "top-3": {"classes": 3},
    "all-ones": {"contrast": "all-ones"},
    "targets": {"contrast": torch.rand(5, 4, generator=torch.Generator().manual_seed(1))},
    "a-sample's-own-targets": {"contrast": torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(2))},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("name", ["norms-twice", "layer-scale-image", "shifted-windows"])
def test_contrasts_and_losses(name: str, contrast: str, loss: str, api: ModuleType) -> None:
    model, x = USES[name].build(torch.float64)
    options: dict[str, Any] = {**CONTRASTS[contrast], "loss": LOSSES[loss]}
    truth = reference.grad_norms(model, x, **options)
    result = api.grad_norms(model, x, **options)
    assert (result.classes is None) == (truth.classes is None)
    if truth.classes is not None:
        assert torch.equal(result.classes, truth.classes)
    assert_close(result.values, truth.values, truth.layers, 1e-9)
    check_dots(api, model, x, **options)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mlp", "cnn", "convnext"])
def test_top_k_rows_are_the_rows_of_the_full_set(
    name: str, dtype: torch.dtype, k: int, api: ModuleType
) -> None:
    """The very classes of the largest logits, in their order, and for each the numbers that all classes together give."""
    model, x = NETWORKS[name].build(dtype)
    every, top = api.grad_norms(model, x), api.grad_norms(model, x, classes=k)
    assert every.classes.tolist() == list(range(10))
    assert torch.equal(top.logits, every.logits)
    assert torch.equal(top.classes, every.logits.topk(k, dim=1).indices)
    rows = top.classes[:, :, None].expand(-1, -1, len(top.layers))
    assert top.layers == every.layers
    near = 1e-9 if dtype == torch.float64 else 1e-5
    assert_close(top.values, every.values.gather(1, rows), top.layers, near)
    # Weighted by the probabilities, all rows' gradients add up to zero, but their squared norms to the Fisher trace: so top k
    # leaves out no more of it than the rest's share.
    p = every.logits.softmax(1)
    of_top, of_all = (
        (p.gather(1, top.classes)[..., None] * top.values).sum(1),
        (p[..., None] * every.values).sum(1),
    )
    assert (of_top <= of_all * (1 + 1e-4)).all()
    left_out = (1 - p.gather(1, top.classes).sum(1)).clamp(min=0)[:, None] * every.values.amax(1)
    assert (of_all - of_top <= left_out * (1 + 1e-4) + 1e-4 * of_all).all()


@pytest.mark.parametrize("name", ["linear-recurrent", "in-place-residual", "layer-scale", "embedding-twice"])
def test_one_sample_one_row(name: str, api: ModuleType) -> None:
    model, x = USES[name].build(torch.float64)
    every = reference.grad_norms(model, x)
    one = api.grad_norms(model, x[:1], classes=[2])
    assert one.values.shape[:2] == (1, 1)
    assert_close(one.values, every.values[:1, 2:3], every.layers, 1e-9)


@pytest.mark.parametrize("options", [{"contrast": "all-ones"}, {"loss": "bce"}, {"loss": "mse"}])
def test_one_logit(options: dict[str, Any], api: ModuleType) -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    truth = reference.grad_norms(model, x, **options)
    result = api.grad_norms(model, x, **options)
    assert result.values.shape == (3, 1, 4)
    assert (result.values > 0).all()
    assert_close(result.values, truth.values, truth.layers, 1e-9)


@pytest.mark.parametrize("module", [gradfast, reference], ids=["gradfast", "reference"])
@pytest.mark.parametrize("loss", [None, "cross_entropy", "bce_softmax"])
def test_one_logit_has_no_softmax(loss: str | None, module: ModuleType) -> None:
    model, x = nn.Linear(5, 1), torch.randn(3, 5)
    with pytest.raises(InputError, match=r'loss: the model has one logit, .*; wanted loss="bce" or "mse"'):
        module.grad_norms(model, x, loss=loss)


class Wraps(nn.Module):
    """Gives its logits in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": x, "logits": self.fc(x)}


@pytest.mark.parametrize("module", [gradfast, reference], ids=["gradfast", "reference"])
def test_logits_in_a_dict(module: ModuleType) -> None:
    model, x = Wraps(), torch.randn(3, 5)
    expected = module.grad_norms(model.fc, x)
    torch.testing.assert_close(module.grad_norms(model, x).values, expected.values)


def test_sure_predictions_keep_their_digits(api: ModuleType) -> None:
    """At p = 1 - 1e-12 the naive float32 gradient has lost its largest entry, that of the predicted class."""
    model, x = USES["in-place-residual"].build()
    with torch.no_grad():
        model.head.weight.mul_(0.05)
        model.head.bias.copy_(torch.tensor([28.0, 0.0, -1.0, 2.0]))
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    assert truth.logits.softmax(1)[:, 0].min() > 1 - 1e-10
    predicted = truth.values[:, :1]
    naive = reference.grad_norms(model, x).values[:, :1]
    assert ((naive / predicted)[..., -1] < 0.8).all()
    result = api.grad_norms(model, x)
    assert_close(result.values[:, :1], predicted, truth.layers, 1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt-tied"])
def test_dots_and_cosines_of_16_bit_operands(name: str, api: ModuleType) -> None:
    """The given gradients are float32, as the parameters are; autocast's operands are not."""
    if not hasattr(api, "grad_cosines"):
        pytest.skip("the reference has no cosines")
    model, x = NETWORKS[name].build(torch.float32)
    some = {n: g.float() for n, g in some_gradients(model).items()}
    options: dict[str, Any] = {"classes": [1, 3], "dtype": torch.bfloat16}
    norms = reference.grad_norms(model, x, classes=[1, 3]).values.sqrt()
    lengths = torch.stack([some[n].norm() for n, _ in model.named_parameters()])
    truth = reference.grad_dots(model, x, some, classes=[1, 3]).values
    scale = norms * lengths
    kept = scale > 1e-3 * scale.max()
    near = 0.05
    dots = api.grad_dots(model, x, some, **options).values
    assert ((dots - truth).abs() <= near * scale.clamp(min=1e-3 * float(scale.max()))).all()
    cosines = api.grad_cosines(model, x, some, **options).values
    assert ((cosines - truth / scale).abs()[kept] <= near).all()


# Chunks
def least_budget(function: Callable[..., object], model: nn.Module, x: Inputs) -> int:
    """The bytes that one sample and one row need, as the error of a budget of one byte says."""
    with pytest.raises(InputError, match="memory_budget: got 1 ") as caught:
        function(model, x, memory_budget=1)
    return int(re.findall(r"wanted (\d+) at least", str(caught.value))[0])


@pytest.mark.parametrize("name", ["mlp", "cnn", "convnext"])
def test_the_budget_that_an_error_asks_for_suffices(name: str, api: ModuleType) -> None:
    model, x = NETWORKS[name].build(torch.float64)
    free = api.grad_norms(model, x)
    result = api.grad_norms(model, x, memory_budget=least_budget(api.grad_norms, model, x))
    assert_close(result.values, free.values, free.layers, 1e-9)


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize(
    "options", [{}, {"classes": 2}, {"contrast": torch.rand(4, 3, 10)}], ids=["all", "top", "own"]
)
@pytest.mark.parametrize("name", ["cnn", "convnext"])
def test_a_memory_budget_changes_no_number(
    name: str, options: dict[str, Any], factor: int, api: ModuleType
) -> None:
    model, x = NETWORKS[name].build(torch.float64)
    free = api.grad_norms(model, x, **options)
    budget = factor * least_budget(api.grad_norms, model, x)
    result = api.grad_norms(model, x, memory_budget=budget, **options)
    assert_close(result.values, free.values, free.layers, 1e-9)
    torch.testing.assert_close(result.logits, free.logits)
    assert (free.classes is None and result.classes is None) or torch.equal(result.classes, free.classes)
    budget = factor * least_budget(api.grad_gram, model, x)
    gram = api.grad_gram(model, x, memory_budget=budget).norms(**options)
    assert_close(gram.values, free.values, free.layers, 1e-9)


@pytest.mark.parametrize("name", ["norms-twice", "frames-folded", "layer-scale", "gather-and-topk"])
def test_a_sample_has_the_same_norms_alone_and_in_any_batch(name: str, api: ModuleType) -> None:
    model, x = USES[name].build(torch.float64)
    together = api.grad_norms(model, x).values
    for b in range(len(x)):
        alone = api.grad_norms(model, slice_batch(x, slice(b, b + 1)))
        assert_close(alone.values, together[b : b + 1], alone.layers, 1e-9)
    shuffled = api.grad_norms(model, x.flip(0))
    assert_close(shuffled.values, together.flip(0), shuffled.layers, 1e-9)


@pytest.mark.parametrize("b", [1, 2, 4, 5, 6, 12])
def test_batches_as_large_as_other_dimensions(b: int, api: ModuleType) -> None:
    """A batch that happens to be as large as the sequence, the width or the number of rows is not taken for it."""
    for name in (
        "sequence-first-folded",
        "shifted-windows",
        "matmul-from-the-left",
        "frames-folded-time-first",
    ):
        model, x = USES[name].build(torch.float64)
        x = torch.randn(b, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(b))
        truth = reference.grad_norms(model, x, classes=[1])
        assert_close(api.grad_norms(model, x, classes=[1]).values, truth.values, truth.layers, 1e-9)


def test_equal_samples(api: ModuleType) -> None:
    """Samples are told apart by where they are, not by their values."""
    model, x = USES["sequence-first-folded"].build(torch.float64)
    x = torch.full_like(x, 0.3)
    truth = reference.grad_norms(model, x)
    assert_close(api.grad_norms(model, x).values, truth.values, truth.layers, 1e-9)


def test_the_fallback_is_announced_once_for_each_model(api: ModuleType) -> None:
    (model, x), (other, _) = (LAYERS["lstm"].build() for _ in range(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for m in (model, model, other):
            result = api.grad_norms(m, x)
    messages = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    if result.fallback:  # an engine with a rule for LSTMs has nothing to announce
        assert len(messages) == 2
        assert all("rnn.weight_hh_l0" in message for message in messages)


def test_layers_that_need_no_fallback_pay_for_none(api: ModuleType) -> None:
    model, x = LAYERS["lstm"].build(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = api.grad_norms(model, x, layers="head")
    truth = reference.grad_norms(model, x, layers="head")
    assert result.fallback == ()
    assert_close(result.values, truth.values, truth.layers, 1e-9)


# Grouped convolutions
def grouped() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    return model.double(), torch.randn(3, 8, 6, 6, dtype=torch.float64)


def without_groups(model: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """What one gets by pairing every output channel with every input channel, as if groups were one."""
    conv = model[0]
    y = conv(x)
    z = model[1:](y)
    (g,) = torch.autograd.grad(F.cross_entropy(z, classes, reduction="sum"), y)
    columns = F.unfold(x, 3, padding=1)
    return torch.einsum("bot,bdt->bod", g.flatten(2), columns).square().sum((1, 2))


def test_grouped_convolutions_pair_channels_of_one_group_only(api: ModuleType) -> None:
    model, x = grouped()
    classes = torch.tensor([0, 1, 2])
    ours = api.grad_norms(model, x).select("0.weight").values[torch.arange(3), classes, 0]
    truth = reference.grad_norms(model, x, layers="0.weight").values[torch.arange(3), classes, 0]
    wrong = without_groups(model, x, classes)
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=0)
    assert ((wrong / truth) > 2).all()
    print(f"squared norms: {ours.tolist()}; with groups ignored: {wrong.tolist()}")  # shown by pytest -rP


@pytest.mark.peers
def test_backpack_ignores_groups(api: ModuleType) -> None:
    """BackPACK's BatchL2Grad of a grouped convolution is above the truth by the pairs across groups."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model, x = grouped()
    classes = torch.tensor([0, 1, 2])
    ours = api.grad_norms(model, x).select("0.weight").values[torch.arange(3), classes, 0]
    extended = extend(model)
    with backpack(BatchL2Grad()):
        extend(nn.CrossEntropyLoss(reduction="sum"))(extended(x), classes).backward()
    theirs = extended[0].weight.batch_l2
    torch.testing.assert_close(theirs, without_groups(model, x, classes), rtol=1e-9, atol=0)
    assert ((theirs / ours) > 2).all()


def test_a_function_of_two_inputs_slices_both(api: ModuleType) -> None:
    model, x = USES["two-arguments"].build(torch.float64)
    truth = reference.grad_norms(model, x)
    result = api.grad_norms(model, x, memory_budget=2 * least_budget(api.grad_norms, model, x))
    assert_close(result.values, truth.values, truth.layers, 1e-9)
    with pytest.raises(InputError, match=r"x: x\[0\]"):
        api.grad_norms(model, (x[0], x[1][:1], 0.5))
