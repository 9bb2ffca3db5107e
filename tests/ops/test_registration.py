"""How the operators are registered: schemas, fake kernels, torch.compile."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import Sample, fused_samples, samples
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from gradfast import ops

SAMPLES = samples()
EVERY = [*SAMPLES, *fused_samples()]
ONE_OF_EACH = list({sample.op: sample for sample in reversed(EVERY)}.values())


def wrapper(sample: Sample) -> Callable[..., Any]:
    """The documented function of a sample's operator, for the operator's arguments in order."""
    names = [argument.name for argument in getattr(torch.ops.gradfast, sample.op).default._schema.arguments]
    return lambda *args: getattr(ops, sample.op)(**dict(zip(names, args, strict=False)))


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.name)
def test_opcheck(sample: Sample) -> None:
    torch.library.opcheck(getattr(torch.ops.gradfast, sample.op).default, sample.args)


def test_every_operator_of_the_families_has_samples() -> None:
    families = ("linear", "conv", "bias", "affine", "embedding")
    wanted = {f"{family}_{kind}" for family in families for kind in ("sqnorm", "dot", "gram")}
    assert {sample.op for sample in SAMPLES} == wanted
    assert wanted <= set(ops.__all__)


@pytest.mark.parametrize("name", [name for name in ops.__all__ if hasattr(torch.ops.gradfast, name)])
def test_a_wrapper_takes_what_the_operator_takes(name: str) -> None:
    schema = getattr(torch.ops.gradfast, name).default._schema
    parameters = inspect.signature(getattr(ops, name)).parameters
    assert list(parameters) == [argument.name for argument in schema.arguments]
    for argument in schema.arguments:
        if argument.has_default_value():
            assert parameters[argument.name].default == argument.default_value


def test_compiles_without_a_graph_break() -> None:
    def norms(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x.relu(), (1, 1))
        weight = ops.conv_sqnorm(padded, g * 2, [3], [1], [0], [1])
        return (weight + ops.bias_sqnorm(g * 2)).sqrt()

    x, g = torch.randn(2, 4, 9), torch.randn(3, 2, 5, 9)
    compiled = torch.compile(norms, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, g), norms(x, g))


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.name)
def test_each_operator_compiles_in_one_graph_with_what_surrounds_it(sample: Sample) -> None:
    call = wrapper(sample)

    def around(*args: Any) -> list[Tensor]:
        scaled = tree_map_only(Tensor, lambda t: t * 2 if t.is_floating_point() else t, args)
        return [t + 1 for t in tree_leaves(call(*scaled))]

    torch._dynamo.reset()
    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*sample.args), around(*sample.args))


def test_every_operator_is_compiled_and_checked() -> None:
    declared = {name for name in ops.__all__ if hasattr(torch.ops.gradfast, name)}
    assert {sample.op for sample in EVERY} == declared


# Where that happened, torch says in a warning.
@pytest.mark.filterwarnings("ignore:Error detected in torch")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sample", ONE_OF_EACH, ids=lambda s: s.op)
def test_differentiating_an_operator_is_refused(sample: Sample, compiled: bool) -> None:
    """No operator has a derivative; none of them may pass for a constant."""
    torch._dynamo.reset()
    call = wrapper(sample)
    run = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call

    def wanting(t: Tensor) -> Tensor:
        return t.clone().requires_grad_() if t.is_floating_point() else t

    with pytest.raises(RuntimeError, match=f"derivative for gradfast::{sample.op} is not implemented"):
        sum(t.sum() for t in tree_leaves(run(*tree_map_only(Tensor, wanting, sample.args)))).backward()


def test_exports_with_a_symbolic_batch() -> None:
    class Norms(torch.nn.Module):
        def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            return ops.linear_sqnorm(x, g)

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Norms(), (torch.randn(3, 4, 5), torch.randn(2, 3, 4, 6)), dynamic_shapes=({0: batch}, {1: batch})
    )
    x, g = torch.randn(7, 4, 5), torch.randn(2, 7, 4, 6)
    torch.testing.assert_close(program.module()(x, g), ops.linear_sqnorm(x, g))
