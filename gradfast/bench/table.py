"""The result of a race as a table for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .race import Race, Result

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["race_table"]


def race_table(race: Race, memory: Mapping[str, tuple[int | None, str | None]] | None = None) -> Group:
    """Time per sample, its ratio to gradfast's, and peak memory where measured; contenders of the same contrast together; then what failed and why."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    sizes = race.task.sizes()
    table = Table(
        title=f"{escape(race.task.name)}: {sizes['batch']} samples, {sizes['classes']} classes, {sizes['tensors']} parameter tensors",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    table.add_column("ms/sample", justify="right", no_wrap=True)
    table.add_column("x gradfast", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("norms", justify="right", no_wrap=True)
    if memory is not None:
        table.add_column("peak MB", justify="right", no_wrap=True)
    for contrast in ("one-hot", "all-ones"):
        results = [r for r in race.results if r.contender.contrast == contrast]
        base = next((r for r in results if r.contender.name.startswith("gradfast")), None)
        for result in results:
            cells = _cells(result, base, 1 if contrast == "all-ones" else sizes["classes"])
            if memory is not None:
                added, error = memory.get(result.contender.name, (None, None))
                cells.append(
                    ""
                    if added is None and error is None
                    else "failed"
                    if added is None
                    else f"{added / 1e6:.0f}"
                )
            table.add_row(escape(result.contender.title), *cells)
        table.add_section()
    failed = [f"[red]{escape(r.contender.title)}:[/] {escape(r.error)}" for r in race.results if r.error]
    failed += [
        f"[red]{name}, memory:[/] {escape(why)}"
        for name, (_, why) in (memory or {}).items()
        if why is not None
    ]
    return Group(table, *failed)


def _cells(result: Result, base: Result | None, rows: int) -> list[str]:
    if result.per_row is None:
        return ["[red]failed[/]", "", "", ""]
    ratio = f"{result.per_row / base.per_row:.2f}" if base is not None and base.per_row else ""
    middle = statistics.median(result.seconds)
    spread = (max(result.seconds) - min(result.seconds)) / middle
    return [
        f"{result.per_row * rows * 1e3:.3g}",
        ratio,
        f"{spread:.0%}",
        {"norms": str(result.layers), "total": "sum", "nothing": "none"}[result.contender.gives],
    ]
