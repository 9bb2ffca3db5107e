"""Expected times on paper: bytes, flops and the resource that limits each layer, for ROOFLINE.md.

``python -m bench.gpu.roofline --write bench/ROOFLINE.md`` renews the tables there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from .shapes import RESNET50, VIT_B, Layer

BEGIN, END = "<!-- roofline: begin -->", "<!-- roofline: end -->"
ROWS, SAMPLES, ELEMENT = 10, 32, 2  # bf16


@dataclass(frozen=True)
class Gpu:
    """Peaks of the data sheet, dense, and how much of the matrix peak mma.sync can reach."""

    name: str
    bf16: float  # FLOP/s
    memory: float  # bytes/s
    l2: float  # bytes/s, read
    multiprocessors: int
    clock: float  # Hz
    mma_sync: float  # share of the peak

    @property
    def shared(self) -> float:
        """Bytes/s of all multiprocessors' shared memory."""
        return 128.0 * self.multiprocessors * self.clock


GPUS = (
    Gpu("A100 80 GB", 312e12, 2.04e12, 7.2e12, 108, 1.41e9, 1.0),
    # wgmma is needed for the full rate; 0.62 is what others have measured of mma.sync on Hopper, not we.
    Gpu("H200", 989e12, 4.8e12, 9e12, 132, 1.83e9, 0.62),
)


def ceil_to(n: int, tile: int) -> int:
    return -(-n // tile) * tile


@dataclass(frozen=True)
class Work:
    """What one form of one layer asks of the device, for all rows and samples."""

    form: str
    flops: float  # with the tiles' padding
    memory: float
    l2: float
    shared: float

    def seconds(self, gpu: Gpu) -> dict[str, float]:
        return {
            "tensor cores": self.flops / (gpu.bf16 * gpu.mma_sync),
            "shared memory": self.shared / gpu.shared,
            "L2": self.l2 / gpu.l2,
            "memory": self.memory / gpu.memory,
        }


def staged(m: int, n: int, k: float, tile: int) -> tuple[float, float]:
    """(bytes from L2, bytes through shared memory) of an m x n x k product in square tiles of four warps."""
    blocks = m * n / tile**2
    loaded = blocks * 2 * tile * k * ELEMENT
    # Each warp reads half of both tiles; cp.async writes what is loaded once.
    return loaded, blocks * 4 * (2 * tile / 2) * k * ELEMENT + loaded


def direct(layer: Layer) -> Work:
    """The large tile where it pads by less than an eighth more, as csrc/cuda/plan.cpp decides."""
    area = {t: ceil_to(layer.outputs, t) * ceil_to(layer.width, t) for t in (64, 128)}
    tile = 128 if 8 * area[128] <= 9 * area[64] else 64
    m, n, k = ceil_to(layer.outputs, tile), ceil_to(layer.width, tile), ceil_to(layer.positions, 32)
    count = ROWS * SAMPLES
    l2, shared = staged(m, n, k, tile)
    return Work(
        f"direct {tile}",
        count * 2.0 * m * n * k,
        SAMPLES * layer.bytes(ROWS, ELEMENT),
        count * l2,
        count * shared,
    )


def gram(layer: Layer) -> Work:
    tiles = ceil_to(layer.positions, 64) // 64
    pairs = tiles * (tiles + 1) // 2
    k = ceil_to(layer.width, 32) + ROWS * ceil_to(layer.outputs, 32)
    diagonal = tiles / pairs  # tiles that are loaded once for both sides
    l2, shared = staged(64, 64, k, 64)
    return Work(
        "Gram 64",
        SAMPLES * 2.0 * pairs * 64 * 64 * k,
        SAMPLES * layer.bytes(ROWS, ELEMENT),
        SAMPLES * pairs * l2 * (1 - diagonal / 2),
        SAMPLES * pairs * (shared - l2 * diagonal / 2),
    )


def table(gpu: Gpu) -> str:
    lines = [
        f"### {gpu.name}",
        "",
        "| layer | form | GFLOP, padded | useful share | MB from memory | expected, us | limit |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for layer in [*RESNET50, *VIT_B]:
        work = min((direct(layer), gram(layer)), key=lambda w: max(w.seconds(gpu).values()))
        limits = work.seconds(gpu)
        limit = max(limits, key=lambda name: limits[name])
        useful = SAMPLES * (
            layer.direct_flops(ROWS) if work.form.startswith("direct") else layer.gram_flops(ROWS)
        )
        lines.append(
            f"| {layer.name} | {work.form} | {work.flops / 1e9:.1f} | {useful / work.flops:.0%} | "
            f"{work.memory / 1e6:.0f} | {1e6 * limits[limit]:.0f} | {limit} |"
        )
    return "\n".join(lines)


def pointwise(gpu: Gpu) -> str:
    lines = [
        f"### {gpu.name}, fused gate",
        "",
        "| positions x channels | MB | expected at 80% of the bandwidth, us |",
        "|---|--:|--:|",
    ]
    for positions, channels in [(3136, 64), (784, 128), (196, 1024), (49, 2048)]:
        moved = SAMPLES * positions * channels * ELEMENT * (2 * ROWS + 2)
        lines.append(
            f"| {positions} x {channels} | {moved / 1e6:.0f} | {1e6 * moved / (0.8 * gpu.memory):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    text = "\n\n".join([*map(table, GPUS), *map(pointwise, GPUS)])
    if arguments.write is None:
        print(text)
        return
    old = arguments.write.read_text()
    head, rest = old.split(BEGIN, 1)
    arguments.write.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
