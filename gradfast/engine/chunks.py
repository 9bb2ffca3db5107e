"""How many samples and rows go back together: as many as a memory budget holds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gradfast.engine.plan import Action, Cost, Plan
from gradfast.errors import InputError
from gradfast.record import Graph

# The C library maps and unmaps fresh pages for every block above this, which costs as much as a pass over it; below, blocks
# are reused, and what waits stays near the caches.
LARGEST_TENSOR = 32 << 20


def measure(graph: Graph, plan: Plan) -> Cost:
    """What one sample of this graph needs. A cotangent waits from the node that makes it to the node that takes it."""
    waiting: dict[int, int] = {}
    fullest = largest = 0
    for node in graph.nodes:
        actions = plan.actions.get(node.order)
        if actions is None:
            continue
        own = waiting.pop(node.order, _bytes(node.shape, node.dtypes[0].itemsize))
        for action, edge in zip(actions, node.edges, strict=True):
            if action is Action.CARRY and edge is not None and edge[0].order not in waiting:
                waiting[edge[0].order] = _bytes(edge[0].shapes[edge[1]], edge[0].dtypes[edge[1]].itemsize)
        fullest = max(fullest, sum(waiting.values()) + own)
        largest = max(largest, own)
    return Cost(*(-(-n // plan.batch) for n in (_saved_bytes(graph), fullest, largest)))


def _bytes(shape: tuple[int, ...], itemsize: int) -> int:
    size = itemsize
    for n in shape:
        size *= n
    return size


def _saved_bytes(graph: Graph) -> int:
    """Bytes of the distinct storages that the graph's nodes have saved, but for those of its leaves (parameters and inputs)."""
    leaves = [getattr(node.fn, "variable", None) for node in graph.nodes]
    held = {t.untyped_storage().data_ptr() for t in leaves if isinstance(t, Tensor)}
    seen: dict[int, int] = {}
    for node in graph.nodes:
        for name in dir(node.fn):
            if name.startswith("_saved_") and not name.endswith(("_sizes", "_strides", "_opt")):
                value = getattr(node.fn, name)
                if isinstance(value, Tensor):
                    storage = value.untyped_storage()
                    seen[storage.data_ptr()] = storage.nbytes()
    return sum(size for storage, size in seen.items() if storage not in held)


def chunk(cost: Cost, count: int, rows: int, budget: int | None, all_rows: bool) -> tuple[int, int]:
    """Samples and rows that go back together, by the cost that was measured with ``count`` samples.

    Raises:
        InputError: the budget does not hold a single sample with a single row.
    """
    fit = LARGEST_TENSOR // max(1, cost.largest)
    samples = max(1, fit // rows)
    rows_at_a_time = rows if all_rows else max(1, min(rows, fit))
    if budget is None:
        return samples, rows_at_a_time
    least = cost.activations + cost.cotangents * (rows if all_rows else 1)
    if budget < least and count > 1:
        return 1, 1  # measured alone, a sample may yet fit
    if budget < least:
        raise InputError(
            f"memory_budget: got {budget} bytes; wanted {least} at least, which one sample needs"
        )
    if not all_rows:
        rows_at_a_time = min(rows_at_a_time, (budget - cost.activations) // max(1, cost.cotangents))
    return max(1, min(samples, budget // (cost.activations + cost.cotangents * rows))), rows_at_a_time


def holds(cost: Cost, rows: int, budget: int | None) -> bool:
    """Whether a single sample can have so many rows go back together."""
    return budget is None or cost.activations + cost.cotangents * rows <= budget


def slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def balanced(left: int, most: int) -> int:
    """The size of the next chunk of ``left`` samples, at most ``most``: chunks of nearly equal size."""
    return -(-left // -(-left // most))
