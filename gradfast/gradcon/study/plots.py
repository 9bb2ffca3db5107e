"""Figures of a trained autoencoder: what it sees beside what it gives back, its scores, its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradfast.detectors.metrics import roc_curve
from gradfast.errors import InputError
from gradfast.gradcon.autoencoders import reconstruct
from gradfast.gradcon.scores import GradConScorer, Scores
from gradfast.gradcon.training import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_files", "heatmap", "histograms", "history", "reconstructions", "roc"]

_IN, _OUT = "#1f6fd0", "#d4620a"
_LINES = ("#1f6fd0", "#e0770c", "#00a799", "#6b0079", "#781c42", "#59636f")


def figure_files(
    scorer: GradConScorer,
    epochs: Sequence[Epoch],
    normal: Tensor,
    anomalous: Tensor,
    out: Path,
    prefix: str = "",
) -> list[Path]:
    """Writes reconstructions.png, heatmap.png, histograms.svg, roc.svg and training.svg for float images [n, C, H, W] of both kinds.

    ``prefix`` goes before each name.
    """
    inside, outside = scorer(normal), scorer(anomalous)
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "reconstructions.png": reconstructions(scorer, normal[:8], anomalous[:8]),
        "heatmap.png": heatmap(scorer, normal[:8], anomalous[:8]),
        "histograms.svg": histograms(inside, outside),
        "roc.svg": roc(inside, outside),
        "training.svg": history(epochs, scorer.layers),
    }
    for name, figure in figures.items():
        figure.savefig(
            out / (prefix + name), dpi=90, metadata={"Date": None} if name.endswith("svg") else None
        )
    return [out / (prefix + name) for name in figures]


def reconstructions(scorer: GradConScorer, normal: Tensor, anomalous: Tensor) -> Figure:
    """Rows: normal images, what came back, anomalous ones, what came back."""
    rows = []
    was = scorer.model.training
    scorer.model.eval()
    with torch.no_grad():
        for x in (normal, anomalous):
            rows += [x, reconstruct(scorer.model, x).output]
    scorer.model.train(was)
    figure, grid = _grid(rows, ("normal", "given back", "anomalous", "given back"))
    for axes, row in zip(grid, rows, strict=True):
        _show(axes, row)
    return figure


def heatmap(scorer: GradConScorer, normal: Tensor, anomalous: Tensor) -> Figure:
    """Rows: normal images, each pixel's share of their gradient score, anomalous ones, theirs.

    Orange raises the score, purple lowers it, full colour from the 99.5th percentile on; the shares of an image add up to its score (`GradConScorer.contributions`).
    """
    shares = [scorer.contributions(x).sum(1) for x in (normal, anomalous)]
    most = float(torch.cat(shares).abs().flatten().quantile(0.995)) or 1.0
    figure, grid = _grid((normal, shares[0], anomalous, shares[1]), ("normal", "share", "anomalous", "share"))
    _show(grid[0], normal)
    _show(grid[2], anomalous)
    for axes, row in zip(grid[1::2], shares, strict=True):
        for panel, share in zip(axes, row.cpu().numpy(), strict=False):
            drawn = panel.imshow(share, cmap="PuOr_r", vmin=-most, vmax=most)
            panel.set_xlabel(f"{share.sum():.2f}", fontsize=8)
    figure.colorbar(drawn, ax=grid[1::2].ravel().tolist(), shrink=0.7)
    return figure


def _grid(rows: Sequence[Tensor], names: Sequence[str]) -> tuple[Figure, Any]:
    columns = min(len(row) for row in rows)
    figure = _figure(1.0 * columns + 1.2, 1.05 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, name in zip(grid, names, strict=True):
        axes[0].set_ylabel(name)
        for panel in axes:
            panel.set(xticks=[], yticks=[])
    return figure, grid


def _show(axes: Any, images: Tensor) -> None:
    for panel, image in zip(axes, images, strict=False):
        pixels = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        panel.imshow(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)


def histograms(inside: Scores, outside: Scores) -> Figure:
    """One panel per score; the less the colours overlap, the better."""
    others = outside.by_name()
    named = inside.by_name()
    figure = _figure(3.2 * len(named), 2.6)
    for panel, (name, values) in zip(
        figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True
    ):
        both = np.concatenate([values, others[name]])
        low, high = np.quantile(both, [0.005, 0.995])
        bins = np.linspace(low, high, 31).tolist()
        for found, colour, label in ((values, _IN, "normal"), (others[name], _OUT, "anomalous")):
            panel.hist(found, bins, density=True, alpha=0.5, color=colour, label=label)
        panel.set(title=name, yticks=[])
    panel.legend(frameon=False)
    return figure


def roc(inside: Scores, outside: Scores) -> Figure:
    """Anomalies caught over false alarms, for every score."""
    figure = _figure(4.2, 3.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#c8ced6", linewidth=1)
    others = outside.by_name()
    for (name, values), colour in zip(inside.by_name().items(), _LINES, strict=False):
        curve = roc_curve(values, others[name])
        axes.plot(1 - curve.tpr, 1 - curve.fpr, color=colour, label=f"{name} {curve.auroc():.3f}")
    axes.set(xlabel="false alarms", ylabel="anomalies caught")
    axes.legend(frameon=False)
    return figure


def history(epochs: Sequence[Epoch], layers: Sequence[str]) -> Figure:
    """Reconstruction error, and the cosine by tensor, over the epochs."""
    if not epochs:
        raise InputError("epochs: got none; wanted those of a training")
    figure = _figure(8.4, 2.8)
    left, right = figure.subplots(1, 2)
    numbers = [e.number for e in epochs]
    left.plot(numbers, [e.reconstruction for e in epochs], color=_IN)
    left.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
    for i, (layer, colour) in enumerate(zip(layers, _LINES * len(layers), strict=False)):
        right.plot(numbers, [e.cosines[i] for e in epochs], color=colour, label=layer)
    right.set(xlabel="epoch", ylabel="cosine to the reference", ylim=(None, 1.02))
    right.legend(frameon=False, fontsize=8)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "plots: matplotlib is not installed: pip install '.[report]' in gradfast's checkout"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
