"""Types of the compiled module."""

from collections.abc import Sequence
from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    torch: str
    compiler: str
    cxx_standard: str
    cxx_flags: str
    isas: list[str]
    cuda_archs: list[str]
    cuda: str

def build_info() -> BuildInfo: ...
def cpu_isa() -> str: ...
def keep_freed_memory(bytes: int) -> bool: ...
def release_freed_memory() -> bool: ...
def weight_norm_forms(
    x: Sequence[int],
    g: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    frames: int,
) -> tuple[str, dict[str, float]]: ...
def weight_gram_flops(
    x: Sequence[int],
    g: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    frames: int,
) -> float: ...
def cuda_weight_norm_form(
    x: Sequence[int],
    g: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    frames: int,
    math: str,
    multiprocessors: int,
) -> tuple[str, str]: ...
