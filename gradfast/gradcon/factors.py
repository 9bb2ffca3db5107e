"""The gradients of a batch's images at one weight, as products that need not be formed; differentiable.

Of a convolution or a linear map an image's gradient is a sum over T positions, left @ right' (Goodfellow, "Efficient Per-Example Gradient
Computations", 2015, for one position). Its dot product with a tensor and its squared norm come from the factors alone, and so do their derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradfast.record import Graph, Node

__all__ = ["Factors", "factors_of", "wide"]


class Factors(NamedTuple):
    """Image b's gradient is ``left[b] @ right[b].T``, viewed as ``shape``: left [B, M, T], right [B, N, T]. ``output`` is that of the
    operation which the weight enters.
    """

    left: Tensor
    right: Tensor
    shape: tuple[int, ...]
    output: GradientEdge

    def cosines(self, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cosine of each image's gradient with a reference of ``shape``, [B]; whether it is defined, zero where not; and what
        `mean_direction` takes.
        """
        r = reference.detach().reshape(self.left.shape[1], self.right.shape[1])
        left, right = (_scaled(t.to(r.dtype)) for t in self[:2])
        past = torch.linalg.vector_norm(r, dtype=torch.float64)
        unit = (r / torch.where(past > 0, past, 1)).to(r.dtype)
        positions, m, n = left.shape[2], *r.shape
        if 3 * positions * (m + n) < m * n:  # by multiplications, derivatives included
            squares = (left.mT @ left * (right.mT @ right)).sum((1, 2))
            rows = left.mT.reshape(-1, m) @ unit * right.mT.reshape(-1, n)
            dots = rows.view(len(left), -1).sum(1)
        else:
            formed = (left @ right.mT).flatten(1)
            squares = formed.square().sum(1)
            dots = formed @ unit.flatten()
        defined = (squares.detach() > 0) & (past > 0)
        cosines = dots / torch.where(defined, squares, 1).sqrt()
        return torch.where(defined, cosines, 0), defined, squares.detach()

    def mean(self) -> Tensor:
        """Of the images' gradients, without a graph."""
        left, right = self.left.detach(), self.right.detach()
        return torch.einsum("bmt,bnt->mn", left, right).view(self.shape) / len(left)

    def mean_direction(self, squares: Tensor) -> Tensor:
        """Of the images' gradients, each scaled to length one (zero stays zero), without a graph. ``squares`` are from `cosines`."""
        left, right = (_scaled(t.detach().to(squares.dtype)) for t in self[:2])
        shares = torch.where(squares > 0, squares.clamp_min(0).rsqrt(), 0)
        return torch.einsum("bmt,bnt->mn", left * shares[:, None, None], right).view(self.shape) / len(left)

    def of_image(self, image: int) -> Tensor:
        """One image's gradient, without a graph."""
        return (self.left[image].detach() @ self.right[image].detach().mT).view(self.shape)


def factors_of(
    graph: Graph, errors: Tensor, weights: Mapping[str, Tensor], *, create_graph: bool
) -> dict[str, Factors] | None:
    """The factors of the gradients of ``errors`` [B] at those of the weights that ``graph`` reaches, if each enters one operation known here:
    a two-dimensional convolution, transposed or not, without groups, or a linear map of [B, in].

    None where one does not. That row b of an operation's output is image b's alone is for the caller to check.
    """
    nodes: dict[str, Node] = {}
    for name in weights:
        if name not in graph.reached:
            continue
        found = _uses(graph, name)
        if len(found) != 1 or not _is_known(found[0], name, len(errors)):
            return None
        nodes[name] = found[0]
    edges = [GradientEdge(node.fn, 0) for node in nodes.values()]
    cotangents = torch.autograd.grad(
        errors.sum(), edges, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    if any(g is None for g in cotangents):  # a function of the user's that gives no gradient
        return None
    factors = {
        name: Factors(*_split(node, g, tuple(weights[name].shape)), tuple(weights[name].shape), edge)
        for (name, node), edge, g in zip(nodes.items(), edges, cotangents, strict=True)
    }
    # A stride's worth of output padding or more: there are windows that no position of the input has.
    return factors if all(f.left.shape[2] == f.right.shape[2] for f in factors.values()) else None


def _uses(graph: Graph, name: str) -> list[Node]:
    """The operations that a parameter enters, as it is or transposed."""
    return [
        node
        for node in graph.nodes
        if node.name != "TBackward0" and any(_parameter(edge) == name for edge in node.edges)
    ]


def _parameter(edge: tuple[Node, int] | None) -> str | None:
    """The parameter behind an operand, if there is nothing between but a transposition."""
    if edge is not None and edge[0].name == "TBackward0":
        edge = edge[0].edges[0]
    return None if edge is None else edge[0].parameter


# What holds the samples, by operation; the weight, transposed, is the last operand.
_LINEAR = {"AddmmBackward0": "mat1", "MmBackward0": "self"}


def _is_known(node: Node, name: str, batch: int) -> bool:
    """Whether it is an operation on ``batch`` rows whose weight is the parameter."""
    if node.shape[0] != batch:
        return False
    if node.name == "ConvolutionBackward0":
        return _parameter(node.edges[1]) == name and len(node.shape) == 4 and int(node.saved("groups")) == 1
    if node.name not in _LINEAR or getattr(node.fn, "_saved_alpha", 1) != 1:
        return False
    last = node.edges[-1]
    return last is not None and last[0].name == "TBackward0" and _parameter(last) == name


def _split(node: Node, g: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """By the cotangent of an operation's output and its input: left and right."""
    if node.name in _LINEAR:
        return g.unsqueeze(2), node.tensor(_LINEAR[node.name]).unsqueeze(2)
    x = node.tensor("input")
    large, small = (g, x) if node.saved("transposed") else (x, g)
    settings = (tuple(map(int, node.saved(s))) for s in ("dilation", "padding", "stride"))
    return small.flatten(2), F.unfold(large, shape[2:], *settings)


def wide(dtype: torch.dtype) -> torch.dtype:
    """In which references and directions are kept: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def _scaled(t: Tensor) -> Tensor:
    """Each image's by a power of two, to a largest entry near one: no square under- or overflows, and a cosine does not change."""
    largest = t.detach().abs().amax((1, 2), keepdim=True)
    exponent = torch.where((largest > 0) & largest.isfinite(), torch.floor(torch.log2(largest)), 0)
    return t * torch.exp2(-exponent)
