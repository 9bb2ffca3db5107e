"""Sample inputs of every operator, for any device: what `opcheck` and the checks across devices run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SQNORM_FORMS = {"linear": ("direct", "gram"), "conv": ("direct", "gram")}


@dataclass(frozen=True)
class Sample:
    """One call: `torch.ops.gradfast.<op>(*args)`."""

    op: str
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The operator and the shapes and dtypes of its tensors."""
        tensors = [a for a in self.args if isinstance(a, Tensor)]
        shapes = "-".join("x".join(map(str, t.shape)) for t in tensors)
        return f"{self.op}-{shapes}-{str(tensors[-1].dtype).removeprefix('torch.')}"


def fused_samples() -> list[Sample]:
    """A call of each operator that joins several steps, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    statistics = [randn(16).abs()]
    return [
        Sample(
            "gate_backward",
            (randn(3, 2, 20, 16), randn(2, 20, 16), False, [randn(2, 20, 16)], *[statistics] * 3, True),
        ),
        Sample("conv3x3_backward", (randn(3, 2, 16, 8, 8), randn(16, 16, 3, 3), randn(2, 16, 8, 8))),
        Sample("linear_sqnorm_dot", (randn(2, 20, 16), randn(3, 2, 20, 8), randn(8, 16))),
        Sample(
            "conv_sqnorm_dot",
            (randn(2, 8, 9, 9), randn(3, 2, 8, 9, 9), randn(8, 4, 3, 3), [3, 3], [1, 1], [1, 1], [1, 1], 2),
        ),
        Sample("conv_input_grad", (randn(3, 2, 16, 4, 4), randn(16, 16, 3, 3), [2, 2], [1, 1], [8, 8])),
    ]


def samples(device: str = "cpu") -> list[Sample]:
    """At least two calls of every operator of the weight, bias, scale and embedding families."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    found = []

    def family(name: str, operands: tuple[Tensor, ...], ref: Tensor, *options: Any) -> None:
        found.append(Sample(f"{name}_sqnorm", (*operands, *options)))
        found.extend(
            Sample(f"{name}_sqnorm", (*operands, *options, form)) for form in SQNORM_FORMS.get(name, ())
        )
        found.append(Sample(f"{name}_dot", (*operands, ref, *options)))
        found.append(Sample(f"{name}_gram", (*operands, *options)))

    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        family(
            "linear",
            (randn(3, 20, 7, dtype=dtype), randn(2, 3, 20, 5, dtype=dtype)),
            randn(5, 7, dtype=dtype),
        )
    family("linear", (randn(3, 1, 7), randn(4, 3, 1, 5)), randn(5, 7))
    family("linear", (randn(0, 4, 7), randn(4, 0, 4, 5)), randn(5, 7))

    x = randn(4, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    g = randn(2, 4, 4, 5, 4)
    family("conv", (x, g), randn(4, 3, 3, 3), [3, 3], [2, 2], [1, 1], [1, 1], 2, False, 2)
    family("conv", (randn(2, 4, 11), randn(3, 2, 6, 9)), randn(6, 4, 3), [3], [1], [1], [2], 1, False, 1)
    family("conv", (randn(2, 4, 5), randn(3, 2, 6, 10)), randn(4, 6, 3), [3], [2], [1], [1], 1, True, 1)
    family(
        "conv",
        (randn(2, 4, 3, 4, 5, dtype=torch.bfloat16), randn(2, 2, 4, 3, 4, 5, dtype=torch.bfloat16)),
        randn(4, 1, 1, 3, 3, dtype=torch.bfloat16),
        *([1, 3, 3], [1, 1, 1], [0, 1, 1], [1, 1, 1], 4, False, 1),
    )

    for shape in ((3, 6), (3, 6, 4, 5), (3, 6, 0)):
        xhat, g = randn(*shape), randn(2, *shape)
        family("bias", (g,), randn(6))
        family("affine", (xhat, g), randn(6))

    indices = torch.randint(5, (3, 12), generator=generator).to(device)
    family("embedding", (indices, randn(2, 3, 12, 7)), randn(5, 7))
    family(
        "embedding", (indices, randn(2, 3, 12, 7, dtype=torch.float16)), randn(5, 7, dtype=torch.float16), 2
    )
    return found
