"""The page of plots: results.json as one HTML file without links to elsewhere."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

TARGETS = {"matrix_share": 0.6, "bandwidth_share": 0.8}


def write(results: dict[str, Any], path: Path) -> None:
    """Writes the page; parts without results are told as what they are."""
    by_part = {p["part"]: p for p in results["parts"]}
    kernels = by_part.get("kernels", {}).get("results", {})
    engines = by_part.get("engines", {}).get("results", [])
    sections = [_table(["part", "status", "seconds", "last line"], [
        [p["part"], p["status"], p["seconds"], (p["last_lines"] or [""])[-1]] for p in results["parts"]
    ])]  # fmt: skip
    if kernels.get("contractions"):
        labels = [f"{c['layer']}, {c['form']}, {c['math']}" for c in kernels["contractions"]]
        shares = [c["matrix_share"] for c in kernels["contractions"]]
        sections.append(_bars("Share of the measured matrix rate", labels, shares, TARGETS["matrix_share"]))
    if kernels.get("pointwise"):
        labels = [f"{c['kernel']}, {c['positions']} x {c['channels']}" for c in kernels["pointwise"]]
        shares = [c["bandwidth_share"] for c in kernels["pointwise"]]
        sections.append(_bars("Share of the copy bandwidth", labels, shares, TARGETS["bandwidth_share"]))
    if kernels.get("backward_data"):
        labels = [c["layer"] for c in kernels["backward_data"]]
        ratios = [c["ratio"] for c in kernels["backward_data"]]
        sections.append(_bars("Time of all norms / time of the backward-data passes", labels, ratios, 1.0))
    timed = [e for e in engines if "seconds_per_sample" in e]
    for network, classes in dict.fromkeys((e["network"], e["classes"]) for e in timed):
        chosen = [e for e in timed if (e["network"], e["classes"]) == (network, classes)]
        title = f"{network}, {classes} classes: ms per sample"
        milliseconds = [1e3 * e["seconds_per_sample"] for e in chosen]
        sections.append(_bars(title, [e["way"] for e in chosen], milliseconds, None))
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    path.write_text(
        "<!doctype html><meta charset=utf-8><title>gradfast on a GPU</title>"
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{text-align:left;padding:.2em 1em}</style>"
        f"<h1>gradfast</h1><p>{html.escape(machine)}</p>" + "".join(sections)
    )


def _table(head: list[str], rows: list[list[Any]]) -> str:
    def line(cells: list[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _bars(title: str, labels: list[str], values: list[float], target: float | None) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + 0.28 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(labels[::-1], values[::-1])
    if target is not None:
        axes.axvline(target, color="black", linestyle="--", linewidth=1)
    axes.set_title(title)
    data = io.BytesIO()
    figure.savefig(data, format="svg")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<h2>{html.escape(title)}</h2><img src="data:image/svg+xml;base64,{encoded}" alt="{html.escape(title)}">'
