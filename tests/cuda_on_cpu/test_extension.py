"""The true extension, as nvcc built it: what is registered, and what the machine code holds.

Skipped for a build for the CPU alone, unless GRADFAST_CUDA=1 insists (``make cuda-check``).
"""

from __future__ import annotations

import os
import types

import pytest
import torch

from gradfast import _C

from . import machine_code
from .build import leave_out
from .machine_code import Kernel

OPS = [f"{family}_{kind}" for family in ("linear", "conv", "bias", "affine", "embedding") for kind in
       ("sqnorm", "dot", "gram")]  # fmt: skip
TENSOR_INSTRUCTION = {"bf16": "HMMA.16816.F32.BF16", "fp16": "HMMA.16816.F32", "tf32": "HMMA.1688.F32.TF32"}


@pytest.fixture(scope="session")
def kernels() -> list[Kernel]:
    from pathlib import Path

    try:
        found = machine_code.kernels(Path(str(_C.__file__)))
    except FileNotFoundError as error:
        leave_out(str(error))
    if not found:
        leave_out("this extension is built for the CPU alone")
    return found


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("op", [*OPS, "gate_backward"])
def test_every_op_has_a_cuda_kernel(op: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gradfast::{op}", "CUDA")


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_torch_says_so() -> None:
    with pytest.raises((AssertionError, RuntimeError), match=r"NVIDIA driver|CUDA"):
        torch.zeros(1, device="cuda")


def test_every_architecture_has_every_kernel(kernels: list[Kernel]) -> None:
    by_arch = {
        arch: {(k.name, k.variant) for k in kernels if k.arch == arch} for arch in {k.arch for k in kernels}
    }
    assert len({frozenset(names) for names in by_arch.values()}) == 1, {a: len(n) for a, n in by_arch.items()}
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        assert set(by_arch) == set(machine_code.DEVICES)


def test_no_hot_kernel_spills(kernels: list[Kernel]) -> None:
    spilled = {
        f"{k.arch} {k.name} {k.variant}": (k.local, k.stack)
        for k in kernels
        if k.hot and (k.local or k.stack or any(i.startswith(("LDL", "STL")) for i in k.instructions))
    }
    assert not spilled
    assert max(k.local + k.stack for k in kernels) <= 8  # one value of any other


def test_contractions_use_tensor_cores_and_asynchronous_copies(kernels: list[Kernel]) -> None:
    checked = 0
    for kernel in filter(lambda k: k.contraction, kernels):
        seen = kernel.instructions
        where = f"{kernel.arch} {kernel.name} {kernel.variant}"
        assert any(i.startswith("LDGSTS.E.BYPASS.128") for i in seen), where
        narrow = "LDGSTS.E.64" if kernel.math == "fp64" else "LDGSTS.E"
        assert seen[narrow] + seen[f"{narrow}.ZFILL"] > 0, where  # channels that fill no 16 bytes
        if kernel.math in TENSOR_INSTRUCTION:
            assert seen[TENSOR_INSTRUCTION[kernel.math]] > 0, where
            assert seen["FFMA"] < 64 * 64 * 16 // 128, where  # the epilogue's squares, not products
        if kernel.math in ("bf16", "fp16"):
            transposed = kernel.name == "direct"
            assert any(i.startswith("LDSM.16.MT88" if transposed else "LDSM.16.M88") for i in seen), where
        if kernel.math == "fp32":
            assert seen["FFMA"] >= 64 * 64 // 128 * 16, where  # every product of a step
        checked += 1
    assert checked >= 18  # three kernels, five kinds of arithmetic, three of them with a large tile


def test_every_hot_kernel_has_room_for_two_blocks(kernels: list[Kernel], emulated: types.ModuleType) -> None:
    for kernel in filter(lambda k: k.contraction, kernels):
        blocks, _ = machine_code.occupancy(kernel, *machine_code.emulated_extent(kernel))
        assert blocks >= 2, f"{kernel.arch} {kernel.name} {kernel.variant}"
