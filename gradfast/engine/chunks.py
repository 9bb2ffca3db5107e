"""How many samples and rows go back together: as many as a memory budget holds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gradfast.engine.plan import Action, Cost, Plan
from gradfast.errors import InputError
from gradfast.record import Graph

# Without a budget: cotangents of this many bytes at most, so that a large batch does not surprise anyone.
DEFAULT_COTANGENT_BYTES = 1 << 30


def measure(graph: Graph, plan: Plan) -> Cost:
    """What one sample of this graph needs. A cotangent waits from the node that makes it to the node that takes it."""
    waiting: dict[int, int] = {}
    peak = now = 0
    for node in graph.nodes:
        actions = plan.actions.get(node.order)
        if actions is None:
            continue
        own = waiting.pop(node.order, _bytes(node.shape, node.dtypes[0].itemsize))
        for action, edge in zip(actions, node.edges, strict=True):
            if action is Action.CARRY and edge is not None and edge[0].order not in waiting:
                waiting[edge[0].order] = _bytes(edge[0].shapes[edge[1]], edge[0].dtypes[edge[1]].itemsize)
        now = sum(waiting.values())
        peak = max(peak, now + own)
    return Cost(_saved_bytes(graph) // plan.batch, peak // plan.batch)


def _bytes(shape: tuple[int, ...], itemsize: int) -> int:
    size = itemsize
    for n in shape:
        size *= n
    return size


def _saved_bytes(graph: Graph) -> int:
    """Bytes of the distinct storages that the graph's nodes have saved, parameters included."""
    seen: dict[int, int] = {}
    for node in graph.nodes:
        for name in dir(node.fn):
            if name.startswith("_saved_") and not name.endswith(("_sizes", "_strides", "_opt")):
                value = getattr(node.fn, name)
                if (isinstance(value, Tensor) and not value.is_leaf) or (
                    isinstance(value, Tensor) and not value.requires_grad
                ):
                    storage = value.untyped_storage()
                    seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def chunk(cost: Cost, rows: int, budget: int | None, all_rows: bool) -> tuple[int, int]:
    """Samples and rows that go back together.

    Raises:
        InputError: the budget does not hold a single sample with a single row.
    """
    if budget is None:
        return max(1, DEFAULT_COTANGENT_BYTES // max(1, cost.cotangents * rows)), rows
    least = cost.activations + cost.cotangents * (rows if all_rows else 1)
    if budget < least:
        raise InputError(f"memory_budget: got {budget} bytes; one sample of this model needs {least}")
    samples = budget // (cost.activations + cost.cotangents * rows)
    if samples >= 1:
        return samples, rows
    return 1, min(rows, (budget - cost.activations) // max(1, cost.cotangents))


def slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
