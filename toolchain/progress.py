"""Progress for people, on stderr: bars with time left in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
PLAIN_EVERY_S = 10.0
_live: Progress | None = None


class Task:
    """One counted piece of work; `advance` moves it."""

    def __init__(self, title: str, total: int, unit: str, bar: Progress | None) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        self._bar, self._start, self._last = bar, time.monotonic(), time.monotonic()
        self._id: TaskID | None = bar.add_task(title, total=total, note="") if bar else None

    def advance(self, step: int = 1, note: str = "") -> None:
        """Count `step` more as done; `note` is shown beside the bar."""
        self.done += step
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, advance=step, note=note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S and 0 < self.done < self.total:
            self._last = now
            left_s = (now - self._start) / self.done * (self.total - self.done)
            console.print(f"  {self.title}: {self.done}/{self.total} {self.unit}, {left_s:.0f} s left {note}".rstrip())

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None and self._id is not None:
            self._bar.remove_task(self._id)


@contextmanager
def task(title: str, total: int, unit: str = "") -> Iterator[Task]:
    """Show `title` as under way until the block ends. Nested tasks share one display."""
    global _live
    owner = _live is None and sys.stderr.isatty()
    if owner:
        _live = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True,
        )  # fmt: skip
        _live.start()
    current = Task(title, total, unit, _live)
    try:
        yield current
    finally:
        current.finish()
        if owner and _live is not None:
            _live.stop()
            _live = None


def note(text: str) -> None:
    """One line for the reader."""
    console.print(text)
