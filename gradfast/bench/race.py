"""Times contenders in turn, round after round, so that whatever slows the machine slows all of them alike."""

from __future__ import annotations

import copy
import gc
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradfast import reference

from .contenders import Contender, Prepared

__all__ = ["Race", "Result", "Task", "WrongNumbersError"]

# A contender whose norms are further from float64 autograd than this does not get timed: far enough for a careless order of sums,
# not for a wrong formula.
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.05, torch.float16: 0.05}

# What several classes share (a forward pass, a Gram matrix) is spread over at least so many of them.
MEANT_TO_SHARE = 10


class WrongNumbersError(Exception):
    """A contender's norms are not those of autograd."""


@dataclass(frozen=True)
class Task:
    """A model, samples [B, ...] and class indices [C]."""

    name: str
    model: nn.Module
    x: Tensor
    classes: Tensor

    def sizes(self) -> dict[str, int]:
        """Sizes for tables."""
        parameters = list(self.model.parameters())
        return {
            "batch": len(self.x),
            "classes": len(self.classes),
            "tensors": len(parameters),
            "parameters": sum(p.numel() for p in parameters),
        }


@dataclass
class Result:
    """What a contender did: seconds of each round for ``samples`` samples and ``rows`` classes, or the ``error`` that stopped it.

    ``first`` are the seconds of the warming call, before any round, ``expected`` those of the call last made, ``deviation`` is how far
    its norms are from float64 autograd (see `deviation`) on the slice that was checked (None: it gives none), ``layers`` the number
    of parameters that it gave a norm for.
    """

    contender: Contender
    samples: int = 0
    rows: int = 0
    seconds: list[float] = field(default_factory=list)
    expected: float = 0.0
    first: float | None = None
    deviation: float | None = None
    layers: int | None = None
    error: str | None = None

    @property
    def per_row(self) -> float | None:
        """Median seconds of a round for one sample and one row."""
        return statistics.median(self.seconds) / (self.samples * self.rows) if self.seconds else None

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.contender.name,
            "title": self.contender.title,
            "how": self.contender.how,
            "gives": self.contender.gives,
            "contrast": self.contender.contrast,
            "samples": self.samples,
            "rows": self.rows,
            "seconds": self.seconds,
            "per_row": self.per_row,
            "first": self.first,
            "deviation": self.deviation,
            "layers": self.layers,
            "error": self.error,
        }


class Race:
    """Prepares and checks every contender, then runs rounds in which each one that stands runs once.

    Args:
        task: what is computed.
        contenders: the ways; each gets its own copy of the model.
        longest: seconds that one call may take: a slower contender gets fewer samples or, for a single sample, fewer classes, and
            times are per sample and row.
    """

    def __init__(self, task: Task, contenders: Sequence[Contender], *, longest: float = 6.0) -> None:
        self.task, self.longest = task, longest
        self.results = [Result(c) for c in contenders]
        self._prepared: dict[str, Prepared] = {}
        self._truths: dict[object, Tensor] = {}
        self._turn = 0

    def prepare(self, seconds: float = math.inf) -> None:
        """Check and warm up all; errors are kept with the contender that raised them, and so is that no time was left."""
        end = time.perf_counter() + seconds
        for result in self.results:
            if time.perf_counter() > end:
                result.error = f"TimeoutError: the {seconds:.0f} s for preparations were over"
                continue
            with _failures_noted(result):
                self._prepare(result)

    def estimate(self) -> float:
        """Seconds that the next round will take."""
        return sum(r.expected for r in self.results if r.error is None)

    def round(self) -> None:
        """Every contender that stands, once; each round starts with another one."""
        self._turn += 1
        gc.collect()
        order = (
            self.results[self._turn % len(self.results) :] + self.results[: self._turn % len(self.results)]
        )
        for result in order:
            if result.error is None:
                with _failures_noted(result):
                    prepared = self._prepared[result.contender.name]
                    x, classes = self.task.x[: result.samples], self.task.classes[: result.rows]
                    if result.contender.contrast == "all-ones":
                        classes = self.task.classes
                    result.expected, _ = _timed(prepared, x, classes)
                    result.seconds.append(result.expected)

    def __getitem__(self, name: str) -> Result:
        return next(r for r in self.results if r.contender.name == name)

    def as_dict(self) -> dict[str, object]:
        return {"task": self.task.name, **self.task.sizes(), "results": [r.as_dict() for r in self.results]}

    def run(self, seconds: float, rounds: tuple[int, int] = (2, 7)) -> list[Result]:
        """Prepare, then as many rounds as the time allows, between ``rounds`` at least and at most."""
        self.prepare()
        start = time.perf_counter()
        for done in range(rounds[1]):
            if done >= rounds[0] and time.perf_counter() - start + self.estimate() > seconds:
                break
            self.round()
        return self.results

    def _prepare(self, result: Result) -> None:
        contender, task = result.contender, self.task
        prepared = contender.prepare(copy.deepcopy(task.model).eval())
        classes = task.classes
        _, values = _timed(prepared, task.x[:1], classes[:2])
        if contender.gives != "nothing":
            self._check(result, prepared, values)
        del values
        spent = self._choose_rows(result, prepared)
        result.samples = max(1, min(len(task.x), int(self.longest / spent)))
        result.expected = spent * result.samples
        if result.samples > 1 and (contender.plans or spent < self.longest / 4):
            # What is made once for each shape, so that no round pays for it.
            result.first, _ = _timed(prepared, task.x[: result.samples], classes[: result.rows])
            result.expected = result.first
        self._prepared[contender.name] = prepared

    def _choose_rows(self, result: Result, prepared: Prepared) -> float:
        """As many classes as one sample may have in the time; seconds for them."""
        x, classes = self.task.x[:1], self.task.classes
        if result.contender.contrast == "all-ones":
            result.rows = 1
            return _timed(prepared, x, classes)[0]
        few, some = min(2, len(classes)), min(MEANT_TO_SHARE, len(classes))
        least = few if result.contender.class_by_class else some
        spent, _ = _timed(prepared, x, classes[:few])
        each = spent / few
        if (len(classes) > few and each * some < self.longest) or least == some > few:
            longer, _ = _timed(prepared, x, classes[:some])
            each, spent, few = max(longer - spent, 0.0) / (some - few), longer, some
        room = (self.longest - spent) / each if each > 0 else len(classes)
        result.rows = int(min(len(classes), max(least, few + room)))
        return max(spent + each * (result.rows - few), 1e-9)

    def _truth(self, contender: Contender, model: nn.Module) -> Tensor:
        """Norms [1, 2, L] (or [1, 1, L]) by autograd in float64. Contenders that left the same layers in share them."""
        key = contender.contrast, tuple(name for name, _ in model.named_parameters())
        if key not in self._truths:
            chosen = None if contender.contrast == "all-ones" else self.task.classes[:2].tolist()
            self._truths[key] = reference.grad_norms(
                model, self.task.x[:1], contrast=contender.contrast, classes=chosen, dtype=torch.float64
            ).values
        return self._truths[key]

    def _check(self, result: Result, prepared: Prepared, values: Tensor | None) -> None:
        contender = result.contender
        truth = self._truth(contender, prepared.model)
        if values is None:
            raise WrongNumbersError(f"{contender.name} gave nothing; wanted norms {tuple(truth.shape)}")
        if contender.gives == "total":
            truth, values = truth.sum(2, keepdim=True), values.unsqueeze(2)
        else:
            result.layers = int((~values.isnan()).all(1).all(0).sum())
        if truth.shape != values.shape:
            raise WrongNumbersError(
                f"{contender.name} gave norms {tuple(values.shape)}; wanted {tuple(truth.shape)}"
            )
        result.deviation = deviation(values, truth, half=contender.dtype is not torch.float32)
        if not result.deviation <= TOLERANCE[contender.dtype]:
            raise WrongNumbersError(
                f"{contender.name} is off by {result.deviation:.3g} from autograd's norms; "
                f"wanted at most {TOLERANCE[contender.dtype]}"
            )


def deviation(values: Tensor, truth: Tensor, *, half: bool) -> float:
    """How far norms [B, C, L] are from the truth; NaN entries of ``values``, which were not given, are left out.

    The largest relative difference, where the norm plus 1e-4 of that parameter's largest is 1: below that every fp32 method
    loses digits to cancellation. With ``half``, 16-bit operands, the largest over samples and rows of the summed differences
    over the summed norms.
    """
    given = ~values.isnan()
    off = torch.where(given, (values.double() - truth).abs(), 0.0)
    if half:
        return float((off.sum(2) / torch.where(given, truth, 0.0).sum(2)).max())
    largest = truth.amax((0, 1), keepdim=True)
    return (
        float((off / (truth + 1e-4 * largest + 1e-9 * largest.max())).max())
        if bool(given.any())
        else float("nan")
    )


def _timed(prepared: Prepared, x: Tensor, classes: Tensor) -> tuple[float, Tensor | None]:
    _synchronize(x)
    start = time.perf_counter()
    values = prepared.run(x, classes)
    _synchronize(x)
    return time.perf_counter() - start, values


def _synchronize(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def failure(error: Exception) -> str:
    """An exception in one line: its type and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300]


@contextmanager
def _failures_noted(result: Result) -> Iterator[None]:
    """A contender that raises is out; the others go on."""
    try:
        yield
    except Exception as error:  # whatever another library raises
        result.error = failure(error)
