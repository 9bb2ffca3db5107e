"""How many samples and rows go back together: as many as a memory budget holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradfast.engine.collect import dense_rows
from gradfast.engine.paths import view_of
from gradfast.engine.plan import Action, Cost, Plan
from gradfast.errors import InputError
from gradfast.record import Graph
from gradfast.rules import rule_for

# The C library maps and unmaps fresh pages for every block above this, which costs as much as a pass over it; below, blocks
# are reused, and what waits stays near the caches.
LARGEST_TENSOR = 32 << 20
# Of a budget, what chunks of several samples are planned to fill: the heap's holes take the rest, or freed memory would have to be
# given back, and mapped again, for each chunk (see `host.Watch`).
ROOM = 0.7
# Of a dense gradient, when it is formed: one use's, the sum so far, and the two of them added up; later its squares.
DENSE_COPIES = 3
TABLE_OR_WEIGHT = ("EmbeddingBackward0", "MmBackward0", "AddmmBackward0")


def measure(graph: Graph, plan: Plan, activations: int | None = None) -> Cost:
    """What one sample of this graph needs; ``activations`` are the graph's bytes of them, None to count them.

    A cotangent waits from the node that makes it to the node that takes it, and where a parameter has several uses, from its use to
    the last one of them.
    """
    waiting: dict[int, dict[int, int]] = {}  # by node and output
    left, held = dict(plan.uses), dict.fromkeys(plan.uses, 0)
    fullest = largest = 0
    for node in graph.nodes:
        actions = plan.actions.get(node.order)
        if actions is None:
            continue
        came = waiting.pop(node.order, None) or {0: _bytes(node.shape, node.dtypes[0].itemsize)}
        own, kept = sum(came.values()), sum(held.values())
        for action, edge in zip(actions, node.edges, strict=True):
            if edge is None:
                continue
            target, output = edge
            if action is Action.CARRY:
                size = _bytes(target.shapes[output], target.dtypes[output].itemsize)
                waiting.setdefault(target.order, {})[output] = size
            elif action in (Action.USE, Action.DENSE):
                for name in target.wanted:
                    left[name] -= 1
                    held[name] = held[name] + own if left[name] else 0
        coming = sum(sum(outputs.values()) for outputs in waiting.values())
        fullest = max(fullest, coming + kept + own)
        largest = max(largest, *came.values())
    kept = _saved_bytes(graph) if activations is None else activations
    activations, cotangents, largest = (-(-n // plan.batch) for n in (kept, fullest, largest))
    return Cost(activations, cotangents, largest, *_dense(graph, plan))


def _dense(graph: Graph, plan: Plan) -> tuple[int, int]:
    """Bytes of one row's gradient where a parameter's gradient has to be formed, for the one that needs most; and rows at a time.

    Told before any use is there: by operations of more than one kind, by what is more than a view of it, or dense. A table that is
    also a linear layer's weight has a closed form (`TiedUse`).
    """
    kinds: dict[str, set[str]] = {}
    formed: set[str] = set()
    for node in graph.nodes:
        for i, action in enumerate(plan.actions.get(node.order, ())):
            if action is Action.DENSE and plan.batch > 1:
                continue  # those parameters are taken one sample at a time, by a plan of their own
            if action in (Action.USE, Action.DENSE):
                target, output = rule_for(node.name).operand(node, i, plan.batch)
                for name in target.wanted - plan.unserved:
                    kinds.setdefault(name, set()).add("linear" if node.name in TABLE_OR_WEIGHT else node.name)
                    if action is Action.DENSE or view_of(target, output) is None:
                        formed.add(name)
    most, rows = 0, 1
    for node in graph.nodes:
        name, elements = node.parameter or "", _bytes(node.shape, 1)
        if name in formed or len(kinds.get(name, ())) > 1:
            size = DENSE_COPIES * elements * max(4, node.dtypes[0].itemsize)
            if size > most:
                most, rows = size, dense_rows(elements)
    return most, rows


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
                if isinstance(value, Tensor) and value.layout is torch.strided:
                    storage = value.untyped_storage()
                    seen[storage.data_ptr()] = storage.nbytes()
    return sum(size for storage, size in seen.items() if storage not in held)


def chunk(cost: Cost, count: int, rows: int, budget: int | None, all_rows: bool) -> tuple[int, int]:
    """Samples and rows that go back together, by the cost that was measured with ``count`` samples.

    Raises:
        InputError: the budget does not hold a single sample with a single row.
    """
    samples = max(1, LARGEST_TENSOR // max(1, cost.largest) // rows)
    at_a_time = rows_at_a_time(cost, rows, budget, all_rows)
    if budget is None:
        return samples, at_a_time
    least = _bytes_of(cost, 1, rows if all_rows else 1, all_rows)
    if budget < least and count > 1:
        return 1, 1  # measured alone, a sample may yet fit
    if budget < least:
        raise InputError(
            f"memory_budget: got {budget} bytes; wanted {least} at least, which one sample needs: {cost.activations} bytes of "
            f"activations, with all made again that can be, and the cotangents of {'all rows' if all_rows else 'a row'}"
        )
    left = int(ROOM * budget) - _bytes_of(cost, 0, rows, all_rows)
    return max(1, min(samples, left // max(1, cost.activations + cost.cotangents * rows))), at_a_time


def rows_at_a_time(cost: Cost, rows: int, budget: int | None, all_rows: bool) -> int:
    """Rows of one sample that go back together: one at least, whatever the budget."""
    if all_rows:
        return rows
    fit = max(1, min(rows, LARGEST_TENSOR // max(1, cost.largest)))
    while budget is not None and fit > 1 and (over := _bytes_of(cost, 1, fit, False) - budget) > 0:
        fit = max(1, fit - max(1, over // max(1, cost.cotangents + cost.dense)))
    return fit


def _bytes_of(cost: Cost, samples: int, rows: int, all_rows: bool) -> int:
    """What so many samples and rows need together."""
    dense = cost.dense * (rows if all_rows else min(rows, cost.dense_rows))
    return samples * (cost.activations + cost.cotangents * rows) + dense


def holds(cost: Cost, rows: int, budget: int | None) -> bool:
    """Whether a single sample can have so many rows, that are all looked at together, go back."""
    return budget is None or _bytes_of(cost, 1, rows, True) <= budget


def keeps_all(cost: Cost, rows: int, budget: int, all_rows: bool) -> bool:
    """Whether a single sample with a single row fits (with all of them, where they are looked at together)."""
    return _bytes_of(cost, 1, rows if all_rows else 1, all_rows) <= budget


def slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def balanced(left: int, most: int) -> int:
    """The size of the next chunk of ``left`` samples, at most ``most``: chunks of nearly equal size."""
    return -(-left // -(-left // most))
