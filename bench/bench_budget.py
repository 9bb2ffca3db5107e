"""Whether `memory_budget` holds: what one call adds to the resident set, in a child process, for large models and growing batches.

Run as a program, not by pytest, for it takes a good hour on one core::

    python -m bench.bench_budget -o docs/results/memory-budget.md

Random weights, as good as trained ones for memory. Finished rows are kept in a .json beside the page, with their dates: a run that was
interrupted goes on where it was. Remove a row from the file to measure it again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradfast
from bench.models import images, language_model
from gradfast.bench import machine
from gradfast.bench.memory import added_bytes
from gradfast.options import parse_memory_budget

CLASSES = 10
TIMEOUT = 3600.0


def gpt_124m() -> nn.Module:
    """GPT-2's smallest size, 124.4 M parameters without its position table: the head is the token table."""
    model = language_model(768, 12, 12, 50_257)
    assert isinstance(model, nn.Sequential)
    model[-1].weight = model[0].weight
    return model


def vision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    for p in model.parameters():
        if not p.any():  # ViT's head: no cotangent would pass it
            nn.init.normal_(p, std=0.02)
    return model


def tokens(length: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randint(50_257, (batch, length))


# Model, how to draw samples, and its title.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], str]] = {
    "resnet50": (partial(vision, "resnet50"), images(224), "ResNet-50, 224 x 224"),
    "vit-b-16": (partial(vision, "vit_b_16"), images(224), "ViT-B/16, 224 x 224"),
    "convnext-t": (partial(vision, "convnext_tiny"), images(224), "ConvNeXt-T, 224 x 224"),
    "gpt-124m": (gpt_124m, tokens(512), "GPT, 124 M, tied head, 512 tokens"),
}


@dataclass(frozen=True)
class Case:
    """One measurement: ten chosen classes ("one-hot") or the all-ones row."""

    model: str
    batch: int
    contrast: str
    budget: str | None

    @property
    def key(self) -> str:
        return "/".join(map(str, asdict(self).values()))


CASES = [
    Case(model, batch, contrast, budget)
    for budget, batches, contrasts in (
        ("2GB", (1, 4, 16, 64), ("all-ones",)),
        ("2GB", (1, 4, 16), ("one-hot",)),
        ("1GB", (4,), ("one-hot", "all-ones")),
    )
    for contrast in contrasts
    for batch in batches
    for model in MODELS
] + [
    # Below what one sample's activations take: blocks are made again.
    *(
        Case(model, 4, contrast, "512MB")
        for contrast in ("all-ones", "one-hot")
        for model in ("gpt-124m", "vit-b-16")
    ),
    Case("resnet50", 128, "one-hot", "6GB"),
    Case("resnet50", 128, "one-hot", None),
]


def prepare(case: Case) -> Callable[[], object]:
    """The call of a case; the libraries are warm, the model and the samples are there."""
    torch.manual_seed(0)
    make, draw, _ = MODELS[case.model]
    model, x = make().eval(), draw(case.batch)
    with torch.no_grad():
        model(x[:1])
    chosen = list(range(CLASSES)) if case.contrast == "one-hot" else None
    return partial(
        gradfast.grad_norms, model, x, contrast=case.contrast, classes=chosen, memory_budget=case.budget
    )


def page(found: dict[str, dict[str, Any]], command: str) -> str:
    """The measurements as Markdown."""
    m = machine.describe()
    head = [
        "| model | contrast | batch | budget | peak added | of the budget | | measured |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    rows, missed = [], 0
    for case in CASES:
        r = found.get(case.key)
        if r is None:
            continue
        budget = parse_memory_budget(case.budget)
        row = [MODELS[case.model][2], case.contrast, str(case.batch), case.budget or "none"]
        if r["bytes"] is None:
            row += ["", "", f"`{r['error']}`"]
        else:
            share = "" if budget is None else f"{r['bytes'] / budget:.2f}"
            holds = budget is None or r["bytes"] <= 1.1 * budget
            missed += not holds
            row += [
                f"{r['bytes'] / 1e9:.2f} GB",
                share,
                "" if budget is None else "holds" if holds else "**missed**",
            ]
        rows.append("| " + " | ".join([*row, r.get("date") or "earlier"]) + " |")
    text = f"""# Memory budgets

`{command}`

What one call of `grad_norms` adds to the resident set at its peak, in a process of its own, over the model and its input
(`gradfast.bench.memory`): the first call of that process, so it holds while the cost is still being found out too. Contrast: one-hot,
{CLASSES} chosen classes; or the all-ones row. A budget holds if the peak is at most 10% above it.

{m["processor"]}, {m["system"]}, 1 thread, torch {m["versions"]["torch"]}, gradfast {m["versions"]["gradfast"]}.

"""
    verdict = "\nEvery budget measured held.\n" if not missed else f"\n{missed} of {len(rows)} missed.\n"
    if len(rows) < len(CASES):
        verdict += (
            f"\n{len(CASES) - len(rows)} of the {len(CASES)} cases of the command have not been measured.\n"
        )
    return text + "\n".join([*head, *rows]) + "\n" + verdict


def main() -> None:
    """Measures what is not there yet, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("memory-budget.md"))
    parser.add_argument("--only", nargs="*", help="cases whose key contains one of these, e.g. resnet50/16")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    store = arguments.out.with_suffix(".json")
    found: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    for case in CASES:
        if case.key in found or (arguments.only and not any(part in case.key for part in arguments.only)):
            continue
        began = time.monotonic()
        added, error = added_bytes(partial(prepare, case), threads=1, timeout=TIMEOUT)
        seconds = round(time.monotonic() - began)
        found[case.key] = {
            "bytes": added,
            "error": error,
            "seconds": seconds,
            "date": date.today().isoformat(),
        }
        print(case.key, found[case.key], flush=True)
        store.write_text(json.dumps(found, indent=1) + "\n")
    arguments.out.write_text(page(found, f"python -m bench.bench_budget -o {arguments.out}"))


if __name__ == "__main__":
    main()
