"""JSON of a directory: benchmarks, a detector, a training, or any other object, as tables of what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from gradfast.errors import InputError
from gradfast.report.directory.figures import curves, heat_map
from gradfast.report.directory.section import Grid, Section, grid
from gradfast.report.directory.walk import Found
from gradfast.report.page import FigureBlock

__all__ = ["json_section", "load_json"]

_LARGEST = 32 * 2**20
_MOST_FACTS = 120
_LISTED = 8
_PANELS = 9
_KNOWN = {"detector.json": "Detector", "training.json": "Training: settings"}
_SCALARS = (str, int, float, bool, type(None))


def load_json(found: Found) -> Any:
    """What a file holds.

    Raises:
        InputError: too large.
        ValueError: no JSON.
    """
    if found.size > _LARGEST:
        raise InputError(f"{found.size / 2**20:.0f} MiB; JSON of at most {_LARGEST >> 20} MiB is read")
    return json.loads(found.path.read_text(encoding="utf-8"))


def json_section(found: Found, stored: Any, key: str) -> Section:
    """A section of what a JSON file holds; raises `KeyError` where it is not the benchmark that it says it is."""
    if isinstance(stored, dict) and isinstance(stored.get("machine"), dict):
        if isinstance(stored.get("records"), list):
            return _benchmarks(found, stored, stored["records"], key)
        if isinstance(stored.get("results"), list):
            return _benchmarks(found, stored, [{"kind": "engine", **stored}, *_peaks(stored)], key)
    name = PurePath(found.name).name
    if name == "training.json" and isinstance(stored, dict):
        stored.pop("history", None)  # metrics.csv has it
    return Section(_KNOWN.get(name, found.path.stem), found.name, **_anything(stored))


def _anything(stored: Any) -> dict[str, Any]:
    """Objects of like objects are tables; everything else is names and values."""
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(stored, dict) and len(stored) > 1 and all(_is_flat(v) for v in stored.values()):
        rows = list(stored.items())
    elif isinstance(stored, list) and stored and all(_is_flat(v) for v in stored):
        rows = [(str(i), v) for i, v in enumerate(stored)]
    if rows:
        columns = list(dict.fromkeys(name for _, row in rows for name in row))
        return {
            "grids": [
                grid("", ["", *columns], [[name, *(row.get(c) for c in columns)] for name, row in rows])
            ]
        }
    facts = list(_facts(stored, ""))
    notes = [f"The first {_MOST_FACTS} of {len(facts):,} entries."] if len(facts) > _MOST_FACTS else []
    return {"facts": facts[:_MOST_FACTS], "notes": notes}


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, _SCALARS) for v in value.values())


def _facts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _facts(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and all(isinstance(v, _SCALARS) for v in value):
        more = f", ... ({len(value):,} in all)" if len(value) > _LISTED else ""
        yield name, ", ".join(str(v) for v in value[:_LISTED]) + more
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _facts(inner, f"{name}[{i}]")
    else:
        yield name, str(value)


def _peaks(stored: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, (size, error) in (stored.get("peak_bytes") or {}).items():
        yield {"kind": "memory", "task": stored["task"], "contender": name, "bytes": size, "error": error}


def _benchmarks(
    found: Found, stored: Mapping[str, Any], records: Sequence[Mapping[str, Any]], key: str
) -> Section:
    engines = [r for r in records if r["kind"] == "engine"]
    figures = []
    if ratios := _ratios(engines, f"{key}-e"):
        said = "Seconds per sample and row, over those of gradfast in the same run: orange is slower than gradfast, blue faster."
        figures.append(FigureBlock("Against the other ways", said, ratios))
    scaling = [r for r in records if r["kind"] == "scaling"][:_PANELS]
    if scaling:
        panels = {
            f"{r['axis']}: {r['title']}"[:60]: {
                "": ([p[0] for p in r["points"]], [1e3 * p[1] for p in r["points"]])
            }
            for r in scaling
        }
        drawn = curves(panels, f"{key}-s", "Time of a call by its size", across="size", along="ms per call")
        figures.append(FigureBlock("Scaling", "Time of one call of grad_norms.", drawn))
    grids = [_engine(r) for r in engines]
    grids += _memory([r for r in records if r["kind"] == "memory"])
    grids += _profile([r for r in records if r["kind"] == "profile"])
    grids += _kernels([r for r in records if r["kind"] == "kernel"])
    facts = list(_facts(stored["machine"], ""))
    facts += [(name, str(stored[name])) for name in ("command", "seconds") if name in stored]
    for r in records:
        if r["kind"] == "limits":
            facts += [(f"limit: {name}", f"{v:.4g}") for name, v in r.items() if name != "kind"]
    facts += [(f"not measured: {name}", str(why)) for name, why in (stored.get("failures") or {}).items()]
    return Section("Benchmarks", found.name, facts=facts, figures=figures, grids=grids)


def _ours(results: Sequence[Mapping[str, Any]]) -> float | None:
    return next((r["per_row"] for r in results if r["name"] == "gradfast" and r.get("per_row")), None)


def _ratios(engines: Sequence[Mapping[str, Any]], name: str) -> str | None:
    ways = list(dict.fromkeys(r["title"] for e in engines for r in e["results"] if r["name"] != "gradfast"))
    against = [e for e in engines if _ours(e["results"])]
    if not ways or not against:
        return None
    values = np.full((len(ways), len(against)), np.nan)
    for j, e in enumerate(against):
        for r in e["results"]:
            if r["title"] in ways and r.get("per_row") and not r.get("error"):
                values[ways.index(r["title"]), j] = r["per_row"] / _ours(e["results"])
    # Ratios are colours by their logarithm: twice as slow is as far from 1 as twice as fast.
    return heat_map(
        ways, [e["task"] for e in against], values, name, "Times over those of gradfast", strength=-np.log2(values) / 4, digits=2
    )  # fmt: skip


def _engine(record: Mapping[str, Any]) -> Grid:
    ours = _ours(record["results"])
    rows = []
    for r in record["results"]:
        per_row = r.get("per_row")
        ratio = f"{per_row / ours:.2f}" if per_row and ours else ""
        rows.append([r["title"], r["gives"], r["samples"], r["rows"], f"{1e3 * per_row:.3f}" if per_row else "", ratio,
                     r.get("deviation"), r.get("error") or ""])  # fmt: skip
    sizes = ", ".join(
        f"{record[n]:,} {n}" for n in ("batch", "classes", "tensors", "parameters") if n in record
    )
    columns = [
        "way",
        "gives",
        "samples",
        "rows",
        "ms per sample and row",
        "over gradfast's",
        "deviation",
        "error",
    ]
    return grid(f"{record['task']}: {sizes}", columns, rows)


def _memory(records: Sequence[Mapping[str, Any]]) -> list[Grid]:
    rows = [
        [r["task"], r["contender"], f"{r['bytes'] / 1e6:,.0f}" if r["bytes"] else "", r["error"] or ""]
        for r in records
    ]
    return [grid("Peak memory of a call", ["task", "way", "MB", "error"], rows)] if rows else []


def _profile(records: Sequence[Mapping[str, Any]]) -> list[Grid]:
    rows = [
        [r["task"], r["dtype"], part, f"{1e3 * seconds / r['samples']:.2f}"]
        for r in records
        for part, seconds in r["parts"].items()
    ]
    return [grid("Where the time goes", ["task", "dtype", "part", "ms per sample"], rows)] if rows else []


def _kernels(records: Sequence[Mapping[str, Any]]) -> list[Grid]:
    rows = [
        [r["case"], r["dtype"], f"{1e3 * r['seconds']:.3f}", f"{r['flops'] / r['seconds'] / 1e9:.0f}",
         f"{r['bytes'] / r['seconds'] / 1e9:.1f}"]
        for r in records
    ]  # fmt: skip
    return [grid("Kernels", ["case", "dtype", "ms", "GFLOP/s", "GB/s"], rows)] if rows else []
