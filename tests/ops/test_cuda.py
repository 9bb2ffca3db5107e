"""The operators' samples on a GPU: the list that the CPU's tests run on, with the CPU's results."""

from __future__ import annotations

import pytest
import torch
from samples import Sample, samples
from torch import Tensor

pytestmark = pytest.mark.cuda
SAMPLES = samples()


def on_gpu(sample: Sample) -> Sample:
    return Sample(sample.op, tuple(a.cuda() if isinstance(a, Tensor) else a for a in sample.args))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_a_gpu_gives_what_the_cpu_gives(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    call = getattr(torch.ops.gradfast, sample.op)
    got, wanted = call(*on_gpu(sample).args), call(*sample.args)
    assert got.is_cuda
    tolerance = 1e-12 if wanted.dtype == torch.float64 else 1e-4
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(got.cpu(), wanted, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_opcheck(sample: Sample) -> None:
    torch.library.opcheck(getattr(torch.ops.gradfast, sample.op).default, on_gpu(sample).args)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_a_captured_graph_gives_the_same_again(sample: Sample) -> None:
    call, args = getattr(torch.ops.gradfast, sample.op), on_gpu(sample).args
    wanted = call(*args)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(*args)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call(*args)
    got.fill_(-1)  # nothing ran yet
    graph.replay()
    torch.testing.assert_close(
        got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max() if wanted.numel() else 0)
    )
