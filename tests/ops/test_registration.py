"""How the operators are registered: schemas, fake kernels, torch.compile."""

from __future__ import annotations

import inspect

import pytest
import torch
from samples import Sample, samples

from gradfast import ops

SAMPLES = samples()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
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
