"""The plots of RESULTS.md: time against size, and the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gradfast",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e1e5ea",
    "figure.facecolor": "white",
}
COLOURS = {"float32": "#1f6fd0", "bfloat16": "#d4620a"}


def scaling(curves: list[dict[str, Any]], path: Path) -> None:
    """One panel a curve, each with the straight line through its first point at which overhead no longer rules."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(curves), figsize=(3.1 * len(curves), 2.9), layout="constrained", squeeze=False
        )
        for ax, curve in zip(axes[0], curves, strict=True):
            sizes, times = zip(*curve["points"], strict=True)
            ms = [1e3 * t for t in times]
            ax.plot(sizes, ms, "o-", color=COLOURS["float32"], markersize=4)
            at = len(sizes) // 2
            ax.plot(
                sizes,
                [ms[at] * s / sizes[at] for s in sizes],
                "--",
                color="#7d8894",
                linewidth=1,
                label="straight line",
            )
            ax.set(xscale="log", yscale="log", xlabel=curve["axis"].split(" (")[0], ylabel="ms")
            ax.set_title(curve["title"].replace(", ", ",\n", 1), fontsize=8, loc="left")
            ax.legend(frameon=False, fontsize=7)
        _save(figure, path)


def roofline(kernels: list[dict[str, Any]], limits: dict[str, float], path: Path) -> None:
    """GFLOP/s against flops a byte; the roofs are this machine's matrix products and memory."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
        intensity = [k["flops"] / k["bytes"] for k in kernels]
        span = [min(intensity) / 2, max(intensity) * 2]
        for dtype, colour in COLOURS.items():
            top, slope = limits[f"gemm_{dtype}"], limits["read"]
            knee = top / slope
            xs = sorted({span[0], min(max(knee, span[0]), span[1]), span[1]})
            ax.plot(xs, [min(top, x * slope) for x in xs], color=colour, linewidth=1, label=f"roof, {dtype}")
            mine = [(k, x) for k, x in zip(kernels, intensity, strict=True) if k["dtype"] == dtype]
            ax.plot(
                [x for _, x in mine],
                [k["flops"] / k["seconds"] / 1e9 for k, _ in mine],
                "o",
                color=colour,
                markersize=4,
                label=dtype,
            )
            if dtype == "float32":
                for k, x in mine:
                    ax.annotate(
                        k["case"].replace("conv 3x3, ", ""), (x, k["flops"] / k["seconds"] / 1e9), fontsize=5.5,
                        xytext=(4, 2), textcoords="offset points", color="#59636f",
                    )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="flops a byte of operands and results", ylabel="GFLOP/s")
        ax.legend(frameon=False, loc="lower right")
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
