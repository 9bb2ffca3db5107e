"""What `gradfast bench` does: the comparison of the project's benchmarks, for a user's own model."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import gradfast
from gradfast.errors import InputError, describe
from gradfast.models import load_model

from . import machine
from .contenders import Contender, contenders
from .libraries import libraries
from .memory import peak_bytes
from .race import Race, Task
from .table import race_table

__all__ = ["Settings", "run", "task_of"]

# Without --classes: a loop over all of a thousand classes would take hours.
MOST_CLASSES = 10


@dataclass(frozen=True)
class Settings:
    """The options of the command, by their names there."""

    model: str
    weights: Path | None = None
    num_classes: int | None = None
    shape: tuple[int, ...] = (3, 224, 224)
    vocabulary: int | None = None
    batch_size: int = 16
    classes: int | None = None
    only: tuple[str, ...] | None = None
    seconds: float = 30.0
    longest: float = 3.0
    threads: int | None = None
    memory: bool = True
    explain: bool = False
    json_file: Path | None = None


def run(settings: Settings, console: Console | None = None) -> None:
    """Race, measure memory, print, and write the JSON.

    Raises:
        InputError: a model that cannot be loaded or run on such samples, or an unknown contender.
    """
    console = console or Console()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    chosen = _chosen(settings.only)
    task = task_of(settings)
    race = Race(task, chosen, longest=settings.longest)
    with console.status("timing"):
        race.run(settings.seconds)
    peaks: dict[str, tuple[int | None, str | None]] | None = None
    if settings.memory:
        with console.status("measuring memory"):
            peaks = {
                c.name: peak_bytes(partial(task_of, settings), c.name)
                for c in chosen
                if race[c.name].error is None
            }
    console.print(race_table(race, peaks))
    if settings.explain:
        console.print(gradfast.explain(task.model, task.x, classes=task.classes.tolist()))
    if settings.json_file is not None:
        found = {"machine": machine.describe(), **race.as_dict(), "peak_bytes": peaks}
        settings.json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def task_of(settings: Settings) -> Task:
    """The model and random samples for it; also in the child processes that measure memory."""
    model = load_model(
        settings.model, settings.weights, num_classes=settings.num_classes, untrained=settings.weights is None
    )
    torch.manual_seed(0)
    size = (settings.batch_size, *settings.shape)
    x = torch.randn(size) if settings.vocabulary is None else torch.randint(settings.vocabulary, size)
    try:
        with torch.no_grad():
            z = model(x[:1])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"--shape: the model does not take samples of shape {settings.shape}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(z, torch.Tensor) or z.dim() != 2:
        raise InputError(f"model: its output for one sample is {describe(z)}; wanted logits [1, K]")
    count = min(z.shape[1], settings.classes or MOST_CLASSES)
    return Task(settings.model, model, x, torch.arange(count))


def _chosen(only: tuple[str, ...] | None) -> list[Contender]:
    known = {c.name: c for c in contenders() + libraries()}
    if only is None:
        return list(known.values())
    for name in only:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise InputError(f"--only: got {name!r}{hint}; wanted some of {', '.join(known)}")
    return [known[name] for name in only]
