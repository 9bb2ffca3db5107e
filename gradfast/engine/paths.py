"""How a tensor that an operation used was cut out of a parameter: transposed, reshaped, sliced, cast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradfast.record import Node
from gradfast.rules.reshape import permutation, signed

_SAME_ORDER = frozenset({
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "UnsqueezeBackward0", "SqueezeBackward0",
    "SqueezeBackward1", "SqueezeBackward2", "AliasBackward0", "CloneBackward0", "ToCopyBackward0",
})  # fmt: skip
_PERMUTED = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})
_CUT = frozenset(
    {"SliceBackward0", "SelectBackward0", "SplitBackward0", "SplitWithSizesBackward0", "UnbindBackward0"}
)


@dataclass(frozen=True)
class View:
    """``steps`` lead from the parameter to the tensor used, nearest to the parameter first: each a node and one of its outputs."""

    parameter: str
    steps: tuple[tuple[Node, int], ...]

    def apply(self, t: Tensor) -> Tensor:
        """Cut a tensor of the parameter's shape as the parameter was cut."""
        for node, output in self.steps:
            t = _apply(node, output, t)
        return t

    @property
    def is_whole(self) -> bool:
        """Whether every element of the parameter is in the tensor."""
        return not any(node.name in _CUT for node, _ in self.steps)

    def key(self) -> tuple[object, ...]:
        """Equal for two views that cut the same elements in the same order (not the reverse)."""
        steps = []
        for node, output in self.steps:
            if node.name in _PERMUTED:
                steps.append(("permute", *permutation(node)))
            elif node.name in _SAME_ORDER:
                if node.edges[0] is not None and node.edges[0][0].shapes[node.edges[0][1]] == node.shape:
                    continue  # a copy, or a cast
                if steps and steps[-1][0] == "view":
                    steps.pop()
                steps.append(("view", *node.shape))
            else:
                steps.append((node.name, output, *_cut_arguments(node)))
        return tuple(steps)

    def elements(self, shape: torch.Size) -> Tensor:
        """Which elements of the parameter are in the tensor: flat indices, in its order."""
        return self.apply(torch.arange(shape.numel()).view(shape)).reshape(-1)


def view_of(node: Node, output: int) -> View | None:
    """The view that made this tensor from a single parameter; None where anything else was done to it."""
    steps: list[tuple[Node, int]] = []
    while node.parameter is None:
        if node.name not in _SAME_ORDER | _PERMUTED | _CUT:
            return None
        (edge,) = node.edges
        if edge is None:
            return None
        steps.append((node, output))
        node, output = edge
    return View(node.parameter, tuple(reversed(steps)))


def _cut_arguments(node: Node) -> tuple[object, ...]:
    """What decides which part the node cut out, to compare two cuts."""
    names = {
        "SliceBackward0": ("dim", "start", "end", "step"),
        "SelectBackward0": ("dim", "index"),
        "SplitBackward0": ("split_size", "dim"),
        "SplitWithSizesBackward0": ("split_sizes", "dim"),
        "UnbindBackward0": ("dim",),
    }[node.name]
    return tuple(str(node.saved(name)) for name in names)


def _apply(node: Node, output: int, t: Tensor) -> Tensor:
    if node.name in _SAME_ORDER:
        return t.reshape(node.shapes[output])
    if node.name in _PERMUTED:
        return t.permute(permutation(node))
    dim = signed(node.saved("dim")) % t.dim()
    if node.name == "SliceBackward0":
        cut = slice(signed(node.saved("start")), signed(node.saved("end")), node.saved("step"))
        return t[(slice(None),) * dim + (cut,)]
    if node.name == "SelectBackward0":
        return t.select(dim, signed(node.saved("index")))
    if node.name == "UnbindBackward0":
        return t.unbind(dim)[output]
    sizes = node.saved("split_size" if node.name == "SplitBackward0" else "split_sizes")
    return tuple(torch.split(t, sizes if isinstance(sizes, int) else list(sizes), dim))[output]
