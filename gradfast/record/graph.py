"""The autograd graph of one forward pass, as plain nodes in the order in which cotangents reach them.

The recording is autograd's own, so every use of a parameter is in it, whatever module or function made it: an edge into
the parameter's leaf *is* the use.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradfast.errors import ModelError

# Where integer inputs enter a graph: nothing below these nodes depends on a floating-point input.
DATA_ENTRIES = frozenset({"EmbeddingBackward0", "EmbeddingBagBackward0"})


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
