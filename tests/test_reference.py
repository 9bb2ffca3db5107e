"""The reference itself: against closed forms and against torch.func, which shares no code with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from zoo import Case
from zoo.base import Function
from zoo.layers import LAYERS
from zoo.uses import USES

from gradfast import reference
from gradfast.errors import InputError
from gradfast.results import GradCosines, GradDots, GradGram, GradNorms

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda z, t: F.cross_entropy(z, t, reduction="sum"),
    "bce": lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="sum"),
    "bce_softmax": lambda z, t: F.binary_cross_entropy(z.softmax(-1), t, reduction="sum"),
    "mse": lambda z, t: (z - t).square().sum(),
}
MODELS = [
    LAYERS["conv2d-groups"],
    LAYERS["group-norm"],
    USES["tied-embedding-every-token"],
    USES["conv-at-two-scales"],
    USES["class-token"],
]


def jacobians(case: Case) -> dict[str, Tensor]:
    """``d z / d theta`` per sample, [B, K, *shape], by torch.func."""
    model, x = case.build(torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def logits(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, values, (sample[None],))[0]

    return vmap(jacrev(logits), (None, 0))(parameters, x)


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_gram_matrices_against_torch_func(case: Case) -> None:
    gram = reference.grad_gram(*case.build(torch.float64))
    assert isinstance(gram, GradGram)
    for i, name in enumerate(gram.layers):
        j = jacobians(case)[name].flatten(2)
        torch.testing.assert_close(gram.values[:, i], j @ j.mT, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_norms_and_dots_against_torch_func(case: Case, loss: str) -> None:
    model, x = case.build(torch.float64)
    z = model(x).detach()
    b, k = z.shape
    targets = torch.rand(b, 2, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = vmap(vmap(torch.func.grad(LOSSES[loss]), (None, 0)))(z, targets)  # [B, C, K]
    norms = reference.grad_norms(model, x, contrast=targets, loss=loss)
    some = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    dots = reference.grad_dots(model, x, some, contrast=targets, loss=loss)
    assert isinstance(norms, GradNorms)
    assert isinstance(dots, GradDots)
    cosines = reference.grad_cosines(model, x, some, contrast=targets, loss=loss)
    assert isinstance(cosines, GradCosines)
    lengths = torch.stack([some[name].square().sum() for name in norms.layers])
    expected = dots.values / (norms.values * lengths).sqrt()
    torch.testing.assert_close(cosines.values, expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(norms.logits, dots.logits)
    torch.testing.assert_close(norms.logits, z)
    for i, name in enumerate(norms.layers):
        gradients = torch.einsum("bck,bk...->bc...", v, jacobians(case)[name])
        expected = gradients.flatten(2).square().sum(2)
        torch.testing.assert_close(norms.values[..., i], expected, rtol=1e-9, atol=1e-12)
        expected = (gradients * some[name]).flatten(2).sum(2)
        torch.testing.assert_close(dots.values[..., i], expected, rtol=1e-9, atol=1e-11)


def test_closed_form_of_a_linear_model() -> None:
    model, x = nn.Linear(5, 3).double(), torch.randn(4, 5, dtype=torch.float64)
    v = model(x).softmax(1)[:, None] - torch.eye(3)  # [B, C, K]
    result = reference.grad_norms(model, x)
    assert result.layers == ("weight", "bias")
    bias = v.square().sum(2)
    torch.testing.assert_close(result.values, torch.stack([bias * x.square().sum(1)[:, None], bias], 2))
    gram = reference.grad_gram(model, x).values
    torch.testing.assert_close(gram[:, 1], torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


def test_rows_are_linear_in_the_reference_gradient() -> None:
    model, x = USES["conv-twice"].build(torch.float64)
    one, two = ({n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(2))
    both = {n: 2 * one[n] - two[n] for n in one}
    of_one, of_two, of_both = (reference.grad_dots(model, x, r).values for r in (one, two, both))
    torch.testing.assert_close(of_both, 2 * of_one - of_two, rtol=1e-9, atol=1e-12)


def test_dtype_casts_the_copy_and_the_input() -> None:
    model, x = USES["in-place-relu"].build()
    result = reference.grad_norms(model, x, dtype=torch.float64)
    assert result.values.dtype == torch.float64
    truth = reference.grad_norms(*USES["in-place-relu"].build(torch.float64))
    assert torch.equal(result.values, truth.values)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_gives_float32(dtype: torch.dtype) -> None:
    model, x = nn.Linear(5, 3).to(dtype), torch.randn(4, 5, dtype=dtype)
    result = reference.grad_norms(model, x)
    assert result.values.dtype == torch.float32
    truth = reference.grad_norms(model, x, dtype=torch.float64)
    torch.testing.assert_close(result.values.double(), truth.values, rtol=0.05, atol=1e-3)


def test_layers_of_the_dots_are_those_of_the_reference() -> None:
    model, x = USES["conv-twice"].build()
    some = {"head.bias": torch.ones(4), "a.weight": torch.ones(3, 3, 3, 3)}
    assert reference.grad_dots(model, x, some).layers == ("a.weight", "head.bias")
    assert reference.grad_dots(model, x, some, layers="head").layers == ("head.bias",)
    with pytest.raises(InputError, match=r"layers: .*'a.bias'.*nearest: 'head.bias'"):
        reference.grad_dots(model, x, some, layers="a.bias")


def test_a_zero_gradient_is_told_from_an_unused_parameter() -> None:
    model = Function(
        lambda m, x: F.linear(x, m.w) + 0 * m.b, w=torch.randn(3, 5), b=torch.ones(3), c=torch.ones(2)
    )
    result = reference.grad_norms(model, torch.randn(2, 5))
    assert result.layers == ("w", "b", "c")
    assert torch.equal(result.values[..., 1:], torch.zeros(2, 3, 2))
    assert result.unused == ("c",)
