"""How the operators' host code launches: whether it can be captured in a CUDA graph, as far as a machine without a GPU can tell,
and in several launches where a grid does not hold all blocks.

For a capture, it launches on torch's current stream, and calls only such operators of torch's as neither wait for the device nor need to know
its data. That a capture succeeds is tested on a GPU (tests/ops/test_cuda.py).
"""

from __future__ import annotations

import re
import types

import pytest
import torch
from ops.samples import Sample, fused_samples, samples
from torch.utils._pytree import tree_leaves

from .build import CUDA

# Calls that wait, allocate past torch's allocator, or name a stream other than the one given.
WAITS = re.compile(
    r"cuda(Device|Stream|Event)Synchronize|cudaMalloc|cudaFree|cudaMemcpy|cudaMemset|cudaStream(Legacy|PerThread|Create)"
    r"|getDefaultCUDAStream|\.item\b|\bitem<|_local_scalar|\.cpu\(\)|to\(at::kCPU|nonzero|masked_select|unique|is_nonzero"
)
# Of torch's operators: views, allocations, and single kernels whose launch depends on shapes alone.
CAPTURABLE = {
    "add", "add_", "alias", "arange", "as_strided", "clamp_min_", "clone", "contiguous", "copy_", "detach", "empty", "empty_like",
    "empty_strided", "expand", "fill_", "flatten", "movedim", "mul", "narrow", "permute", "reshape", "resize_", "result_type", "select", "set_",
    "slice", "sort", "squeeze", "sum", "t", "to", "_to_copy", "transpose", "triu", "unfold", "unsqueeze", "view", "zero_", "zeros",
}  # fmt: skip
CUDA_OPS = [s for s in [*samples(), *fused_samples()] if s.op not in ("conv3x3_backward", "conv_input_grad")]


def operators_called(call: object, *args: object) -> set[str]:
    """The names of all of torch's operators that a call runs, however deep."""
    assert callable(call)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(*args)
    return {e.name.removeprefix("aten::") for e in profile.events() if e.name.startswith("aten::")}


def test_a_value_read_back_would_be_seen() -> None:
    assert {"item", "_local_scalar_dense"} <= operators_called(lambda t: t.sum().item(), torch.ones(3))
    assert WAITS.search("const auto n = counts.item<int64_t>();")
    assert WAITS.search("C10_CUDA_CHECK(cudaStreamSynchronize(stream));")


def test_no_source_names_a_call_that_waits() -> None:
    sources = sorted(p for p in CUDA.rglob("*") if p.suffix in (".cpp", ".cu", ".cuh", ".h"))
    assert len(sources) > 20
    found = [f"{p.name}: {m[0]}" for p in sources for m in WAITS.finditer(p.read_text())]
    assert not found


def test_every_launch_is_on_the_given_stream() -> None:
    launches = [
        m[1]
        for p in sorted((CUDA / "kernels").iterdir())
        for m in re.finditer(r"<<<(.*?)>>>", p.read_text(), re.DOTALL)
    ]
    assert launches
    assert all(arguments.split(",")[-1].strip() == "stream" for arguments in launches)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("sample", CUDA_OPS, ids=lambda s: s.name)
def test_an_operator_calls_nothing_that_waits(
    emulated: types.ModuleType, sample: Sample, deterministic: bool
) -> None:
    torch.use_deterministic_algorithms(deterministic)
    try:
        called = operators_called(getattr(emulated, sample.op), *sample.args)
    finally:
        torch.use_deterministic_algorithms(False)
    assert called <= CAPTURABLE, called - CAPTURABLE


@pytest.mark.parametrize("sample", CUDA_OPS, ids=lambda s: s.name)
def test_blocks_that_one_grid_does_not_hold_go_in_several_launches(
    emulated: types.ModuleType, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = getattr(emulated, sample.op)
    wanted = tree_leaves(call(*sample.args))
    monkeypatch.setenv("GRADFAST_EMULATOR_MOST_BLOCKS", "3")
    for got, whole in zip(tree_leaves(call(*sample.args)), wanted, strict=True):
        torch.testing.assert_close(got, whole, rtol=1e-6, atol=1e-6)
