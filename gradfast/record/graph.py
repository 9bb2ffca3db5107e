"""The autograd graph of one forward pass, as plain nodes in the order in which cotangents reach them.

The recording is autograd's own, so every use of a parameter is in it, whatever module or function made it: an edge into
the parameter's leaf *is* the use.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gradfast.errors import ModelError

# Where integer inputs enter a graph: nothing below these nodes depends on a floating-point input.
DATA_ENTRIES = frozenset({"EmbeddingBackward0", "EmbeddingBagBackward0"})

# By these an operation names the axes that it works on, and what else decides whether it mixes samples or can be fused.
_SETTINGS = (
    "_saved_dim", "_saved_dims", "_saved_dim0", "_saved_dim1", "_saved_dim2",
    "_saved_shifts", "_saved_training", "_saved_train", "_saved_alpha", "_saved_beta",
)  # fmt: skip

# Operations that may bring samples into another order, and where they keep the indices by which they do.
_REORDERING = {
    "IndexBackward0": "_saved_indices",
    "IndexPutBackward0": "_saved_indices",
    "IndexSelectBackward0": "_saved_index",
    "IndexAddBackward0": "_saved_index",
    "IndexCopyBackward0": "_saved_index",
    "IndexFillBackward0": "_saved_index",
    "GatherBackward0": "_saved_index",
    "ScatterBackward0": "_saved_index",
    "ScatterAddBackward0": "_saved_index",
    "ScatterReduceBackward0": "_saved_index",
    "IndexReduceBackward0": "_saved_index",
    "SegmentReduceBackward0": "_saved_lengths",
    "EmbeddingBackward0": "_saved_indices",
    "TakeBackward0": "_saved_index",
    "SortBackward0": "_saved_indices",
    "TopkBackward0": "_saved_indices",
    "SelectBackward0": "_saved_index",
    "SliceBackward0": "_saved_start",
    "MaskedSelectBackward0": "_saved_mask",
    "MaskedScatterBackward0": "_saved_mask",
}


# Products whose left operand may be data that routes samples (a permutation, a dispatch to experts), and where they keep it.
_ROUTING = {
    "MmBackward0": "_saved_self",
    "BmmBackward0": "_saved_self",
    "AddmmBackward0": "_saved_mat1",
    "BaddbmmBackward0": "_saved_batch1",
}


@dataclass(eq=False)
class Node:
    """One recorded operation.

    ``fn`` is autograd's node; ``edges[i]`` is the node that produced operand i and the number of that node's output (None
    where no gradient is wanted); ``shapes`` and ``dtypes`` are those of the operation's outputs. ``from_input`` says that an input
    lies behind it, ``from_samples`` that one of floating point does: a lookup may be of positions, the same for all samples.
    """

    fn: Any
    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    edges: list[tuple[Node, int] | None] = field(default_factory=list)
    parameter: str | None = None
    from_input: bool = False
    from_samples: bool = False
    wanted: frozenset[str] = frozenset()
    order: int = -1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    def saved(self, name: str) -> Any:
        """What the operation kept for its backward formula, by autograd's name for it."""
        return getattr(self.fn, "_saved_" + name)

    def tensor(self, name: str) -> Tensor:
        """The same, for what is a tensor."""
        value = self.saved(name)
        assert isinstance(value, Tensor)
        return value

    def __repr__(self) -> str:
        return f"Node({self.order}, {self.name}, {list(self.shape)})"


@dataclass(frozen=True)
class Graph:
    """All nodes that lead to ``root``, sorted so that each comes after every node that consumes its output."""

    root: Node
    root_output: int
    nodes: tuple[Node, ...]
    reached: frozenset[str]

    def signature(self, batch: int) -> tuple[Any, ...]:
        """All that a plan for ``batch`` samples depends on: the operations and their settings, how they are connected, their shapes, and
        where the parameters and the inputs enter.
        """
        return tuple(
            (
                (n.name, n.parameter, n.from_input, n.from_samples, *_settings(n, batch)),
                n.shapes,
                tuple((e[0].order, e[1]) if e else None for e in n.edges),
            )
            for n in self.nodes
        )


def _settings(node: Node, batch: int) -> tuple[Any, ...]:
    """Shapes alone do not tell a transposition of two axes of one size from none, nor one order of the samples from another."""
    kind: type = type(node.fn)
    settings = tuple(getattr(node.fn, name) for name in _settings_of(kind))
    if batch == 1:
        return settings
    if node.name in _ROUTING:
        return (*settings, _routes(node, batch))
    where = _REORDERING.get(node.name)
    if where is None or (indices := getattr(node.fn, where, None)) is None:
        return settings
    indices = indices if isinstance(indices, (list, tuple)) else [indices]
    return (*settings, *(_digest(index, node, position, batch) for position, index in enumerate(indices)))


@cache
def _settings_of(kind: type) -> tuple[str, ...]:
    return tuple(name for name in _SETTINGS if hasattr(kind, name))


def _digest(index: Any, node: Node, position: int, batch: int) -> bytes | int | None:
    """Of indices that can reach across samples; None for others.

    Where the first axis is as long as there are samples, they lie there; else any axis may hold them whose length is a multiple, and the
    first in any case, for it may have been padded.
    """
    source = next((e for e in node.edges if e is not None), None)
    if index is None or source is None or not source[0].from_input:
        return None  # a table's rows are no samples
    operand = source[0].shapes[source[1]]
    first = bool(operand) and operand[0] == batch
    if isinstance(index, Tensor) and index.dtype is torch.bool:
        by_sample = first and index.dim() > 0 and len(index) == batch
        return _bytes_of(index.reshape(batch, -1).sum(1) if by_sample else index)
    axis = getattr(node.fn, "_saved_dim", position)
    axis = axis - 2**64 if axis >= 2**63 else axis  # negative ones are kept without their sign
    axis %= max(1, len(operand))
    if axis and (first or operand[axis] % batch):
        return None
    return index if isinstance(index, int) else _bytes_of(index)


def _routes(node: Node, batch: int) -> bytes | None:
    """Where a product's left operand is zero, if it is data and the right one has samples along the axis that is summed over."""
    *_, left, right = node.edges
    if left is not None or right is None or not right[0].from_input:
        return None
    data = getattr(node.fn, _ROUTING[node.name])
    if data.dim() == 3 and len(data) == batch:
        return None
    zeros = data == 0
    return _bytes_of(zeros) if bool(zeros.any()) else None


def _bytes_of(t: Tensor) -> bytes:
    return hashlib.blake2b(t.detach().cpu().contiguous().numpy().tobytes(), digest_size=16).digest()


def _make_node(fn: Any) -> Node:
    if fn.name() == "CheckpointFunctionBackward":
        raise ModelError(
            "model: it checkpoints with use_reentrant=True, which hides parameters from autograd's graph; "
            "wanted use_reentrant=False"
        )
    if fn.name().endswith("NotImplemented"):  # autograd would warn and give zeros for all that lies behind
        raise ModelError(
            "model: it runs an operator that has no gradient in torch (a quantised one, or one of torch.library without an "
            "autograd formula); wanted operators that can be differentiated"
        )
    metadata = fn._input_metadata
    return Node(
        fn=fn,
        name=fn.name().removeprefix("torch::autograd::"),
        shapes=tuple(tuple(int(s) for s in m.shape) for m in metadata),
        dtypes=tuple(m.dtype for m in metadata),
    )


def trace(
    logits: Tensor, parameters: Mapping[str, Tensor], inputs: Iterable[Tensor], wanted: Iterable[str]
) -> Graph:
    """Read the graph behind ``logits``.

    ``parameters`` are leaves by name, ``inputs`` the floating-point leaves that carry the samples; ``wanted`` names the
    parameters whose norms are asked for. Each node learns which wanted parameters lie behind it and whether a sample does.
    """
    assert logits.grad_fn is not None
    names = {id(p): name for name, p in parameters.items()}
    input_ids = {id(t) for t in inputs}
    wanted_names = frozenset(wanted)
    nodes: dict[Any, Node] = {}
    stack = [logits.grad_fn]
    consumers: dict[Node, int] = {}
    while stack:
        fn = stack.pop()
        if fn in nodes:
            continue
        nodes[fn] = _make_node(fn)
        stack.extend(f for f, _ in fn.next_functions if f is not None and f not in nodes)
    for fn, node in nodes.items():
        variable = getattr(fn, "variable", None)
        if variable is not None:
            node.parameter = names.get(id(variable))
            node.from_input = node.from_samples = id(variable) in input_ids
        for target, output in fn.next_functions:
            node.edges.append(None if target is None else (nodes[target], output))
            if target is not None:
                consumers[nodes[target]] = consumers.get(nodes[target], 0) + 1

    root = nodes[logits.grad_fn]
    ready = [(-root.fn._sequence_nr(), 0, root)]
    tie = 0
    ordered: list[Node] = []
    while ready:
        _, _, node = heapq.heappop(ready)
        node.order = len(ordered)
        ordered.append(node)
        for edge in node.edges:
            if edge is None:
                continue
            consumers[edge[0]] -= 1
            if consumers[edge[0]] == 0:
                tie += 1
                heapq.heappush(ready, (-edge[0].fn._sequence_nr(), tie, edge[0]))

    reached: set[str] = set()
    for node in reversed(ordered):
        behind: set[str] = set()
        if node.parameter is not None:
            reached.add(node.parameter)
            if node.parameter in wanted_names:
                behind.add(node.parameter)
        for edge in node.edges:
            if edge is not None:
                behind |= edge[0].wanted
                node.from_input |= edge[0].from_input
                node.from_samples |= edge[0].from_samples
        node.from_input |= node.name in DATA_ENTRIES
        node.wanted = frozenset(behind)
    return Graph(root, logits.output_nr, tuple(ordered), frozenset(reached))
