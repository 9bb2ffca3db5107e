"""Every instruction set that was built and that runs here gives the numbers of the best one, which are tested elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compare import DTYPES
from samples import Sample, samples

from gradfast import _C, ops

BUILT = _C.build_info()["isas"]  # lowest first


def larger_samples() -> list[Sample]:
    """Whole register tiles and several panels, beside the edges of the small samples."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for dtype in DTYPES:

        def randn(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        x, g = randn(2, 130, 75), randn(3, 2, 130, 66)
        found += [Sample("linear_sqnorm", (x, g, form)) for form in ("direct", "gram")]
        found.append(Sample("linear_gram", (x, g)))
        found.append(Sample("linear_sqnorm_dot", (x, g, randn(66, 75))))
        same = ([3, 3], [1, 1], [1, 1], [1, 1])
        x, g = randn(2, 40, 9, 9), randn(2, 2, 37, 9, 9)
        found += [
            Sample("conv_sqnorm", (x, g, *same, 1, False, 1, f)) for f in ("direct", "gram", "pixel_gram")
        ]
        found.append(Sample("conv_sqnorm", (x, x.expand(2, *x.shape), *same, 40, False, 1, "direct")))
        found.append(Sample("bias_sqnorm", (g.movedim(2, -1).contiguous().movedim(-1, 2),)))
    return found


def results() -> list[torch.Tensor]:
    found = [getattr(ops, sample.op)(*sample.args) for sample in samples() + larger_samples()]
    return [torch.stack(each) if isinstance(each, tuple) else each for each in found]


@pytest.mark.parametrize("isa", BUILT[: BUILT.index(_C.cpu_isa())])
def test_agrees(isa: str, tmp_path: Path) -> None:
    folder, path = str(Path(__file__).parent), tmp_path / "results.pt"
    code = (
        f"import sys; sys.path.insert(0, {folder!r})\n"
        "import torch, test_instruction_sets as t\n"
        f"assert t._C.cpu_isa() == {isa!r}, t._C.cpu_isa()\n"
        f"torch.save(t.results(), {str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "GRADFAST_CPU_ISA": isa})
    for got, want, sample in zip(torch.load(path), results(), samples() + larger_samples(), strict=True):
        tolerance = 1e-11 if want.dtype == torch.float64 else 3e-5
        torch.testing.assert_close(
            got, want, rtol=tolerance, atol=tolerance, msg=lambda m, s=sample: f"{s.name}: {m}"
        )
