"""What ResNet-18 at 32 x 32 is to reach: 62 parameter tensors, 10 classes, batch 16, two threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TASK = "resnet18-32"


@dataclass(frozen=True)
class Target:
    """gradfast's time (or memory) over that of the fastest of some peers is to be at most ``fp32``, or ``bf16`` with such operands.

    ``faster`` states the bound the other way round: how many times faster.
    """

    title: str
    peers: tuple[str, ...]
    fp32: float | None
    bf16: float | None = None
    faster: bool = False
    ours: str = "gradfast"


TIME = (
    Target(
        "torch's class-batched input gradient, no norms (the faster memory format)",
        ("input-gradient", "input-gradient-nhwc"),
        0.9,
        0.5,
    ),
    Target("loop over samples and classes with autograd", ("loop",), 5, 9, faster=True),
    Target("BackPACK BatchL2Grad, loop over classes", ("backpack",), 6, 11, faster=True),
    Target("Opacus ghost norms, loop over classes", ("opacus",), 7, 13, faster=True),
    Target("torch.func vmap(vmap(grad))", ("vmap",), 20, faster=True),
    Target("TorchJD's Gramian engine (only measured)", ("torchjd",), None, faster=True),
    Target(
        "all-ones contrast against one batched forward and backward (the faster memory format)",
        ("forward-backward", "forward-backward-nhwc"),
        1.0,
        ours="gradfast-all-ones",
    ),
)
MEMORY = Target(
    "peak memory added, against torch's class-batched input gradient", ("input-gradient",), 1.0, 0.6
)


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured; None where a contender failed."""

    wanted: str
    measured: float | None
    met: bool | None


def judge(target: Target, figures: Mapping[str, float | None], bf16: bool) -> Verdict:
    """Hold one column of a target against figures (seconds a row, or bytes) by contender."""
    bound = target.bf16 if bf16 else target.fp32
    ours = figures.get(target.ours + ("-bf16" if bf16 else ""))
    peers = [f for p in target.peers if (f := figures.get(p)) is not None]
    wanted = "" if bound is None else f">= {bound:g} times faster" if target.faster else f"<= {bound:g}"
    if not ours or not peers:
        return Verdict(wanted, None, None)
    ratio = min(peers) / ours if target.faster else ours / min(peers)
    met = None if bound is None else ratio >= bound if target.faster else ratio <= bound
    return Verdict(wanted, ratio, met)
