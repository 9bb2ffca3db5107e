"""Writes RESULTS.md from what a run found. Nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from bench.targets import MEMORY, TASK, TIME, Target, Verdict, judge

Found = dict[str, Any]
OURS = ("gradfast", "gradfast-bf16", "gradfast-all-ones")


def render(run: Found) -> str:
    """The whole page. ``run`` has ``machine``, ``command``, ``seconds``, ``records`` and ``failures``."""
    records: list[Found] = run["records"]
    engines = {r["task"]: r for r in records if r["kind"] == "engine"}
    memories: dict[str, Found] = {}
    for r in records:
        if r["kind"] == "memory":
            memories.setdefault(r["task"], {})[r["contender"]] = r
    kernels = [r for r in records if r["kind"] == "kernel"]
    curves = [r for r in records if r["kind"] == "scaling"]
    limits = best_limits(records)
    parts = [_head(run)]
    if TASK in engines:
        parts += [_targets(engines[TASK], memories.get(TASK)), _contenders(engines[TASK])]
    profiles = [r for r in records if r["kind"] == "profile"]
    if profiles:
        parts.append(_profile(profiles, engines.get(TASK)))
    if engines:
        parts.append(_models(engines.values()))
    parts += [_memory(name, peaks) for name, peaks in memories.items()]
    if curves:
        parts.append(_scaling(curves))
    if wide := [r for r in records if r["kind"] == "basis"]:
        parts.append(_basis(wide))
    if kernels and limits:
        parts.append(_kernels(kernels, limits))
    if engines:
        parts.append(_how(next(iter(engines.values()))))
    if run["failures"]:
        parts.append(
            "## Not measured\n\n" + "\n".join(f"- {name}: {why}" for name, why in run["failures"].items())
        )
    return "\n\n".join(parts) + "\n"


def best_limits(records: Iterable[Found]) -> dict[str, float]:
    """The best of each limit of the machine over the times that it was measured."""
    best: dict[str, float] = {}
    for record in records:
        if record["kind"] == "limits":
            best |= {
                name: max(value, best.get(name, 0.0)) for name, value in record.items() if name != "kind"
            }
    return best


def _head(run: Found) -> str:
    m = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    load = "" if m["load"] is None else f" Load average when it started: {m['load']:.1f}."
    return f"""# Benchmarks

Written by `{run["command"]}` in {run["seconds"] / 60:.1f} minutes, from `results.json` beside it. Times are medians over rounds in
which every contender runs in turn within one process, so ratios hold where absolute times do not. Each contender's norms were
checked against float64 autograd before it was timed.

- {m["processor"]}, {m["cores"]} cores, {m["system"]}; {m["threads"]} threads; kernels for {m["isa"]}, BLAS {m["blas"]}.{load}
- Python {m["python"]}, {versions}"""


def _targets(engine: Found, memory: Found | None) -> str:
    figures = {r["name"]: r["per_row"] for r in engine["results"]}
    rows = [_target_row(t, figures) for t in TIME]
    if memory is not None:
        rows.append(_target_row(MEMORY, {name: peak["bytes"] for name, peak in memory.items()}))
    return (
        f"## Targets: ResNet-18 at 32 x 32, {engine['tensors']} parameter tensors, {engine['classes']} classes, "
        f"batch {engine['batch']}\n\ngradfast in float32, and with bfloat16 operands, each against the peer in float32.\n\n"
        + _table(("against", "wanted", "fp32", "", "wanted", "bf16", ""), rows)
    )


def _target_row(target: Target, figures: Mapping[str, float | None]) -> list[str]:
    row = [target.title]
    for bf16 in (False, True):
        if bf16 and target.bf16 is None:
            row += ["", "", ""]
        else:
            verdict = judge(target, figures, bf16)
            row += [verdict.wanted, _measured(verdict, target), _mark(verdict)]
    return row


def _measured(verdict: Verdict, target: Target) -> str:
    if verdict.measured is None:
        return "not measured"
    return f"{verdict.measured:.1f} times faster" if target.faster else f"{verdict.measured:.2f}"


def _mark(verdict: Verdict) -> str:
    return "" if verdict.met is None else "met" if verdict.met else "**missed**"


def _contenders(engine: Found) -> str:
    base = {r["contrast"]: r["per_row"] for r in reversed(engine["results"]) if r["name"] in OURS}
    base["one-hot"] = next(r["per_row"] for r in engine["results"] if r["name"] == "gradfast")
    rows = []
    for r in engine["results"]:
        times = engine["classes"] if r["contrast"] == "one-hot" else 1
        if r["per_row"] is None:
            rows.append([r["title"], "failed", "", "", "", "", f"`{r['error']}`"])
            continue
        ours = base.get(r["contrast"])
        given = {"norms": f"{r['layers']} tensors", "total": "sum over tensors", "nothing": "no norms"}[
            r["gives"]
        ]
        off = "" if r["deviation"] is None else f"{r['deviation']:.0e}"
        rows.append(
            [
                r["title"],
                f"{r['per_row'] * times * 1e3:.1f}",
                "" if not ours else f"{r['per_row'] / ours:.2f}",
                f"{_spread(r['seconds']):.0%}",
                f"{len(r['seconds'])} x {r['samples']}",
                given,
                off,
            ]
        )
    head = ("", "ms per sample", "of gradfast's time", "spread", "rounds x samples", "gives", "off by")
    return (
        "## The same in full\n\nA contender too slow for the time that a call may take runs fewer samples, and its time is per "
        "sample. Spread: largest less smallest round over the median. Off by: largest relative difference from float64 autograd "
        "(bfloat16: of all norms of a row together).\n\n" + _table(head, rows)
    )


PARTS = {
    "forward": "a forward pass without gradients",
    "recording": "recording it; with bfloat16 operands, the pass in bfloat16 that is recorded besides",
    "winograd": "input gradients of the convolutions whose norms come with them (Winograd)",
    "backward-data": "input gradients of the other convolutions (Winograd where it pays, else torch)",
    "norms": "norms of the other convolutions, biases and the head",
    "fused gates": "ReLU's gate, BatchNorm's scale and sums, the shortcut's sum",
    "other": "everything else",
}


def _profile(profiles: list[Found], engine: Found | None) -> str:
    """Where a call's time goes, and what each missed target would leave for it."""
    rows = []
    for name, title in PARTS.items():
        cells = [title]
        for p in profiles:
            share = p["parts"][name] / p["parts"]["all"]
            cells.append(f"{p['parts'][name] / p['samples'] * 1e3:.1f} ({share:.0%})")
        rows.append(cells)
    rows.append(["all", *(f"{p['parts']['all'] / p['samples'] * 1e3:.1f}" for p in profiles)])
    text = (
        "## Where the time goes\n\n`gradfast.explain` on the targets' call; ms per sample. The watched call waits for each step to "
        "end, which costs a little.\n\n" + _table(("", *(p["dtype"] for p in profiles)), rows)
    )
    return text + ("" if engine is None else _misses(engine, profiles))


def _misses(engine: Found, profiles: list[Found]) -> str:
    """For each missed target of time: what it asks for, and what of it is left beside the forward pass."""
    figures = {r["name"]: r["per_row"] for r in engine["results"]}
    # Of the model's own dtype in every profile.
    forward = min(p["parts"]["forward"] / p["samples"] for p in profiles)
    lines = []
    for target in TIME:
        for bf16 in (False, True):
            verdict = judge(target, figures, bf16)
            wanted = target.bf16 if bf16 else target.fp32
            ours = figures.get("gradfast-bf16" if bf16 else target.ours)
            if verdict.met is not False or wanted is None or ours is None or verdict.measured is None:
                continue
            peer = ours * (verdict.measured if target.faster else 1 / verdict.measured)
            rows = engine["classes"] if target.ours == "gradfast" else 1
            asked = (peer / wanted if target.faster else peer * wanted) * rows
            dtype = "bfloat16" if bf16 else "float32"
            lines.append(
                f"- {target.title}, {dtype}: {verdict.wanted} asks for {asked * 1e3:.1f} ms per sample, {ours * rows * 1e3:.1f} were "
                f"taken; the forward pass in the model's dtype is {forward * 1e3:.1f} of them."
            )
    return "\n\nTargets that were missed:\n\n" + "\n".join(lines) if lines else ""


def _models(engines: Iterable[Found]) -> str:
    names = [
        "gradfast-bf16", "input-gradient", "input-gradient-nhwc", "loop", "backpack", "opacus", "vmap", "torchjd",
    ]  # fmt: skip
    titles = ["bf16", "input gradient", "the same, nhwc", "loop", "BackPACK", "Opacus", "vmap", "TorchJD"]
    rows, errors, slower = [], [], []
    for engine in engines:
        results = {r["name"]: r for r in engine["results"]}
        ours = results["gradfast"]["per_row"]
        size = f"{engine['task']} (B {engine['batch']}, N {engine['classes']})"
        row = [size, "failed" if ours is None else f"{ours * engine['classes'] * 1e3:.1f}"]
        for name in names:
            r = results[name]
            if r["error"]:
                row.append("failed")
                errors.append(f"- {engine['task']}, {r['title']}: `{r['error']}`")
            else:
                row.append("" if not ours else f"{r['per_row'] / ours:.2f}")
            if ours and r["per_row"] and r["gives"] != "nothing" and name not in OURS and r["per_row"] < ours:
                slower.append(f"{engine['task']}: {r['title']} is {ours / r['per_row']:.2f} times faster")
        ones, plain = results["gradfast-all-ones"]["per_row"], results["forward-backward"]["per_row"]
        row.append(f"{ones / plain:.2f}" if ones and plain else "failed")
        first, again = (
            results["gradfast"].get("first"),
            statistics.median(results["gradfast"]["seconds"] or [0.0]),
        )
        row.append(f"{first / again:.1f}" if first and again else "")
        rows.append(row)
    text = (
        "## Every model\n\nms per sample of gradfast (all N classes), and how many times as long the others take for the same "
        "samples and classes; the input gradients give no norms. Last: the all-ones contrast over one batched forward and "
        "backward; and gradfast's first call on a model, which plans, over a later one (no round has it).\n\n"
        + _table(("", "gradfast, ms", *titles, "all-ones", "first call"), rows)
    )
    text += "\n\nA peer that gives norms and is faster than gradfast: " + ("; ".join(slower) or "none") + "."
    return text + ("\n\nFailed:\n\n" + "\n".join(errors) if errors else "")


def _memory(task: str, peaks: Found) -> str:
    base = peaks["gradfast"]["bytes"] if "gradfast" in peaks else None
    rows = [
        [name, f"{p['bytes'] / 1e6:.0f}", f"{p['bytes'] / base:.2f}" if base else ""]
        if p["bytes"] is not None
        else [name, "failed", f"`{p['error']}`"]
        for name, p in peaks.items()
    ]
    return (
        f"## Peak memory: {task}\n\nOne call in a process of its own, over the model and its input.\n\n"
        + _table(("", "MB added", "of gradfast's"), rows)
    )


def _scaling(curves: list[Found]) -> str:
    parts = ["## Scaling\n\n![time against size](scaling.svg)"]
    for c in curves:
        sizes = [str(at) for at, _ in c["points"]]
        times = [f"{seconds * 1e3:.1f}" for _, seconds in c["points"]]
        parts.append(f"{c['title']}:\n\n" + _table((c["axis"], *sizes), [["ms", *times]]))
        if c["curve"] == "classes":
            points = dict(map(tuple, c["points"]))
            if 100 in points and 1000 in points:
                line = points[1000] / (10 * points[100])
                mark = "met" if line <= 0.6 else "**missed**"
                parts.append(
                    f"1000 classes cost {line:.2f} of the straight line through 100 classes (wanted <= 0.6: {mark})."
                )
    return "\n\n".join(parts)


def _basis(found: list[Found]) -> str:
    rows = [
        [
            f["title"],
            str(n),
            f"{n / f['width']:.2g}",
            f"{every * 1e3:.1f}",
            f"{short * 1e3:.1f}",
            f"{short / every:.2f}",
        ]
        for f in found
        for n, every, short in f["points"]
    ]
    return (
        "## More classes than the head's input is wide\n\n"
        "N rows as they are, or by a basis of F rows and each parameter's Gram matrix across them (`engine/basis.py`), which "
        "`grad_norms` takes from N = 2 F on. One sample.\n\n"
        + _table(("", "N", "N / F", "every row, ms", "basis, ms", "basis / every row"), rows)
    )


def _kernels(kernels: list[Found], limits: Mapping[str, float]) -> str:
    rows = []
    for k in kernels:
        speed, traffic = k["flops"] / k["seconds"] / 1e9, k["bytes"] / k["seconds"] / 1e9
        roof = min(limits[f"gemm_{k['dtype']}"], k["flops"] / k["bytes"] * limits["read"])
        rows.append(
            [
                k["case"],
                k["dtype"],
                f"{k['seconds'] * 1e3:.2f}",
                f"{speed:.1f}",
                f"{traffic:.1f}",
                f"{speed / roof:.0%}",
            ]
        )
    return (
        "## Kernels\n\n![roofline](roofline.svg)\n\n"
        f"This machine, measured in the same run: matrix products {limits['gemm_float32']:.0f} GFLOP/s in float32 and "
        f"{limits['gemm_bfloat16']:.0f} in bfloat16, reading memory {limits['read']:.1f} GB/s. The roof of a kernel is the "
        "lower of the two limits for its flops and bytes; operands that fit in the cache can pass the memory limit. 10 rows, 4 "
        "samples.\n\n" + _table(("", "operands", "ms", "GFLOP/s", "GB/s", "of its roof"), rows)
    )


def _how(engine: Found) -> str:
    lines = [f"- {r['title']}: {r['how']}." for r in engine["results"]]
    return "## How each one is used\n\n" + "\n".join(lines)


def _spread(seconds: list[float]) -> float:
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    rule = ["---"] + ["---:"] * (len(lines[0]) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
