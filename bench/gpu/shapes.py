"""The layers that the kernels are measured at, and what each costs at least."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A linear layer (kernel 1) or a convolution by its image, channels and kernel."""

    name: str
    inputs: int
    outputs: int
    size: int  # positions of a linear layer, or height and width of the output
    kernel: int = 1
    stride: int = 1
    linear: bool = False

    @property
    def positions(self) -> int:
        return self.size if self.linear else self.size * self.size

    @property
    def width(self) -> int:
        return self.inputs * self.kernel * self.kernel

    def direct_flops(self, rows: int) -> float:
        """Of one sample."""
        return 2.0 * rows * self.outputs * self.width * self.positions

    def gram_flops(self, rows: int) -> float:
        """Of one sample, both Gram matrices halved by symmetry."""
        return float(self.positions) ** 2 * (self.width + rows * self.outputs)

    def bytes(self, rows: int, element: int) -> float:
        """Of one sample: each operand read once."""
        pixels = self.positions * self.stride * self.stride
        return element * (pixels * self.inputs + rows * self.positions * self.outputs)


RESNET50 = [
    Layer("stem 7x7/2", 3, 64, 112, 7, 2),
    Layer("stage 1 3x3", 64, 64, 56, 3),
    Layer("stage 1 1x1", 64, 256, 56),
    Layer("stage 2 3x3", 128, 128, 28, 3),
    Layer("stage 3 3x3", 256, 256, 14, 3),
    Layer("stage 3 1x1", 1024, 256, 14),
    Layer("stage 4 3x3", 512, 512, 7, 3),
    Layer("stage 4 1x1", 512, 2048, 7),
]
VIT_B = [
    Layer("qkv", 768, 2304, 197, linear=True),
    Layer("projection", 768, 768, 197, linear=True),
    Layer("mlp up", 768, 3072, 197, linear=True),
    Layer("mlp down", 3072, 768, 197, linear=True),
]
TINY = [Layer("3x3", 8, 8, 6, 3), Layer("linear", 16, 24, 20, linear=True)]
