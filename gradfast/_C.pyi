"""Types of the compiled module."""

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
