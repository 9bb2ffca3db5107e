"""A progress bar over samples: samples done, samples per second, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import Self

__all__ = ["SampleProgress"]

_WINDOW = 600.0  # seconds


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(
            "- samples/s" if rate is None else f"{rate:.{0 if rate >= 100 else 1}f} samples/s", style="cyan"
        )


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total}")


class SampleProgress:
    """A bar on standard error while it is entered.

    The rate and the time left are those of the last ten minutes of this run: what else a machine does comes and goes within
    minutes. Samples that an earlier run has done count towards the total only.

    Args:
        total: samples in all; None if unknown.
        shown: False draws nothing.
        doing: what is done to them.
    """

    def __init__(self, total: int | None, shown: bool = True, doing: str = "extracting") -> None:
        columns = (
            TextColumn(doing),
            BarColumn(),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=Console(stderr=True), disable=not shown, speed_estimate_period=_WINDOW
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def resumed(self, samples: int) -> None:
        """Samples that were done before this run."""
        # By update(completed=...), rich would take them into the rate.
        self._progress.reset(self._task, completed=samples)

    def advance(self, samples: int) -> None:
        """Samples that are done now."""
        self._progress.advance(self._task, samples)
