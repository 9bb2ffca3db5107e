"""What nvcc made of the kernels: registers, spills, shared memory, occupancy and instructions, read from the extension.

``python -m tests.cuda_on_cpu.machine_code gradfast/_C*.so`` prints the table; ``--write FILE`` puts it into a Markdown
file, between two comments; ``--check FILE`` fails if the file has another one for the same nvcc.
"""

from __future__ import annotations

import argparse
import re
import shutil
import site
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MATHS = ["bf16", "fp16", "tf32", "fp32", "fp64"]  # Math of kernels/contraction.h
ELEMENTS = {"float": "fp32", "double": "fp64", "__nv_bfloat16": "bf16", "__half": "fp16"}
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"


@dataclass(frozen=True)
class Device:
    """What bounds the blocks of one multiprocessor."""

    shared: int  # bytes for all blocks
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32
    reserved: int = 1024  # bytes of shared memory that each block costs besides


DEVICES = {"sm_80": Device(164 * 1024), "sm_90a": Device(228 * 1024), "sm_100": Device(228 * 1024)}


@dataclass
class Kernel:
    """One kernel of one architecture."""

    arch: str
    symbol: str
    registers: int
    stack: int
    local: int
    static_shared: int
    instructions: Counter[str] = field(default_factory=Counter)
    demangled: str = ""

    @property
    def name(self) -> str:
        found = re.search(r"(\w+)_kernel<", self.demangled)
        assert found, self.demangled
        return "embedding_dot" if found[1] == "dot" and "Tile<" not in self.demangled else found[1]

    @property
    def variant(self) -> str:
        """Arithmetic, and tile or number of fused norms: "bf16 128x128"."""
        if tile := re.search(r"(Tensor|Fma)Tile<\(gradfast::cuda::Math\)(\d), [^,]+, (.*?)>", self.demangled):
            size = "x".join(tile[3].split(", ")[:2]) if tile[1] == "Tensor" else "64x64"
            return f"{MATHS[int(tile[2])]} {size}"
        arguments = re.search(r"_kernel<([^>]*)>", self.demangled)
        assert arguments, self.demangled
        element, *rest = arguments[1].replace("(int)", "").split(", ")
        if self.name == "channel_sums":
            aligned = "" if rest[0] == "1" else ", aligned"
            return f"{ELEMENTS[element]}, {rest[1]} norms{aligned}"
        if self.name == "depthwise":
            return f"{ELEMENTS[element]}{', pairs' if rest[0] == '2' else ''}"
        return ELEMENTS[element]

    @property
    def math(self) -> str:
        return re.split(r"[ ,]", self.variant)[0]

    @property
    def contraction(self) -> bool:
        return self.name in ("direct", "gram", "dot") and "Tile<" in self.demangled

    @property
    def hot(self) -> bool:
        """Where the time goes: the tensor-core kernels and the passes over cotangents, aligned, but for float64."""
        tensor = self.contraction and self.math in ("bf16", "fp16", "tf32")
        passes = self.name == "depthwise" or (self.name == "channel_sums" and "aligned" in self.variant)
        return tensor or (passes and self.math != "fp64")


def cuobjdump() -> str:
    """The disassembler: of a toolkit, of nvidia's packages or of triton's, which comes with torch."""
    places = [Path(folder) / part for folder in site.getsitepackages() for part in
              ("nvidia/cu13/bin", "triton/backends/nvidia/bin")]  # fmt: skip
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=":".join(map(str, places)))
    if found is None:
        raise FileNotFoundError("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return found


def _output(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _resources(binary: Path) -> Iterator[Kernel]:
    arch = symbol = ""
    for line in _output(cuobjdump(), "--dump-resource-usage", str(binary)).splitlines():
        if found := re.match(r"arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            symbol = found[1]
        elif found := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, found.groups())
            yield Kernel(arch, symbol, registers, stack, local, shared)


def _instructions(binary: Path, arch: str) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in _output(cuobjdump(), "-sass", "-arch", arch, str(binary)).splitlines():
        if found := re.match(r"\s*Function : (\S+)", line):
            current = counts.setdefault(found[1], Counter())
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            current[found[1]] += 1
    return counts


def kernels(binary: Path) -> list[Kernel]:
    """Every kernel of gradfast in a binary, for each architecture, in a fixed order."""
    found = [k for k in _resources(binary) if "gradfast" in k.symbol]
    names = _output("c++filt", text="\n".join(k.symbol for k in found)).splitlines()
    for kernel, name in zip(found, names, strict=True):
        kernel.demangled = name
    for arch in {k.arch for k in found}:
        counts = _instructions(binary, arch)
        for kernel in found:
            if kernel.arch == arch:
                kernel.instructions = counts[kernel.symbol]
    return sorted(found, key=lambda k: (k.name, k.variant, list(DEVICES).index(k.arch)))


def occupancy(kernel: Kernel, threads: int, dynamic_shared: int) -> tuple[int, float]:
    """Blocks of one multiprocessor, and the share of its threads that they are."""
    device = DEVICES[kernel.arch]
    warps = -(-threads // 32)
    by_registers = device.registers // (warps * -(-kernel.registers * 32 // 256) * 256)
    by_shared = device.shared // (kernel.static_shared + dynamic_shared + device.reserved)
    blocks = min(by_registers, by_shared, device.threads // threads, device.blocks)
    return blocks, blocks * threads / device.threads


# (threads, bytes of dynamic shared memory) of a kernel.
Extent = Callable[[Kernel], tuple[int, int]]


def emulated_extent(kernel: Kernel) -> tuple[int, int]:
    """As the host code launches it, asked of the emulated build."""
    import torch

    if not kernel.contraction:
        return {"runs": 128, "embedding_dot": 128, "tap_sum": 128, "sum": 128, "rank_one": 128}.get(
            kernel.name, 256
        ), 0
    large = "128x128" in kernel.variant
    extent = torch.ops.gradfast_emulated.tile_extent(kernel.name, MATHS.index(kernel.math), large)
    return extent[4], extent[5]


def table(found: list[Kernel], extent: Extent) -> str:
    """A Markdown table with one line for each kernel and variant, the architectures side by side."""
    archs = [arch for arch in DEVICES if any(k.arch == arch for k in found)]
    lines = [
        "| kernel | variant | threads | shared KiB | "
        + " | ".join(f"{a}: registers, occupancy" for a in archs)
        + " |",
        "|---|---|--:|--:|" + "--:|" * len(archs),
    ]
    rows: dict[tuple[str, str], dict[str, Kernel]] = {}
    for kernel in found:
        rows.setdefault((kernel.name, kernel.variant), {})[kernel.arch] = kernel
    for (name, variant), by_arch in rows.items():
        first = next(iter(by_arch.values()))
        threads, dynamic = extent(first)
        cells = []
        for arch in archs:
            kernel = by_arch[arch]
            blocks, share = occupancy(kernel, threads, dynamic)
            spill = f", {kernel.stack + kernel.local} B of stack" if kernel.stack + kernel.local else ""
            cells.append(f"{kernel.registers}, {blocks} blocks ({share:.0%}){spill}")
        shared = (first.static_shared + dynamic) / 1024
        lines.append(f"| {name} | {variant} | {threads} | {shared:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compiler() -> str:
    """The line that names nvcc's version: another one makes other machine code."""
    from build_support.cuda import fitting_toolkit

    said = _output(str(fitting_toolkit().home / "bin" / "nvcc"), "--version")
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    assert found, said
    return f"Compiled by nvcc {found[1]}."


def check(path: Path, text: str) -> None:
    """Fails if the file has another table for this compiler."""
    old = path.read_text()
    line = text.splitlines()[0]
    if line not in old:
        print(f"{path} is not of this compiler ({line}): not compared")
    elif text not in old:
        sys.exit(f"{path} is out of date: make cuda-kernels renews it")


def write(path: Path, text: str) -> None:
    """Replaces what stands between the two comments in a file, or appends it with them."""
    section = f"{BEGIN}\n{text}\n{END}"
    old = path.read_text() if path.exists() else ""
    if BEGIN in old and END in old:
        head, rest = old.split(BEGIN, 1)
        new = head + section + rest.split(END, 1)[1]
    else:
        title = (
            "## CUDA kernels as compiled\n\nRead from the machine code; none of it has run on a GPU here.\n\n"
        )
        new = (old.rstrip() + "\n\n" if old else "") + title + section + "\n"
    path.write_text(new)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path, help="the built extension, or an object file of a kernel")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail if this file has another table")
    arguments = parser.parse_args()
    found = kernels(arguments.binary)
    if not found:
        sys.exit(f"{arguments.binary} has no CUDA kernel of gradfast")
    import torch

    import gradfast  # noqa: F401

    from .build import build_ops

    torch.ops.load_library(str(build_ops()))
    text = f"{compiler()}\n\n{table(found, emulated_extent)}"
    if arguments.check:
        check(arguments.check, text)
    elif arguments.write:
        write(arguments.write, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
