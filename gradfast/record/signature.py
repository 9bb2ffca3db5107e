"""What two graphs must have in common for a plan of one to serve the other."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gradfast.record.graph import Graph, Node

__all__ = ["Signature", "signature"]

Signature = tuple[Any, ...]

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


def signature(graph: Graph, batch: int) -> Signature:
    """All that a plan for ``batch`` samples depends on: the operations and their settings, how they are connected, their shapes, where
    parameters and inputs enter, and the order of the samples where data can change it.
    """
    return tuple(
        (
            (n.name, n.parameter, n.from_input, n.from_samples, *_settings(n, batch)),
            n.shapes,
            tuple((e[0].order, e[1]) if e else None for e in n.edges),
        )
        for n in graph.nodes
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
    if data.layout is not torch.strided:
        return _bytes_of(data.to_sparse_coo().coalesce().indices())
    if data.dim() == 3 and len(data) == batch:
        return None
    zeros = data == 0
    return _bytes_of(zeros) if bool(zeros.any()) else None


def _bytes_of(t: Tensor) -> bytes:
    return hashlib.blake2b(t.detach().cpu().contiguous().numpy().tobytes(), digest_size=16).digest()
