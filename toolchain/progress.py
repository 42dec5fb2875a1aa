"""Progress for people, on stderr: bars with time left in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
PLAIN_EVERY_S = 10.0
_lock = threading.Lock()
_live: Progress | None = None
_users = 0
_plain = False
_speaker: ContextVar[str] = ContextVar("speaker", default="")


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
            line = f"  {self.title}: {self.done}/{self.total} {self.unit}, {left_s:.0f} s left {note}"
            console.print(line.rstrip(), markup=False)

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None and self._id is not None:
            self._bar.remove_task(self._id)


@contextmanager
def task(title: str, total: int, unit: str = "") -> Iterator[Task]:
    """Show `title` as under way until the block ends. Nested tasks, and those of other threads, share one display."""
    bar = _open_display()
    current = Task(_spoken(title), total, unit, bar)
    try:
        yield current
    finally:
        current.finish()
        _close_display(bar)


def plain() -> None:
    """No bars in this process from now on: several of them write to one terminal."""
    global _plain
    _plain = True


def note(text: str) -> None:
    """One line for the reader."""
    console.print(_spoken(text), markup=False)


@contextmanager
def speaker(name: str) -> Iterator[None]:
    """Tasks and notes of this thread begin with `name`, so that several at once can be told apart."""
    token = _speaker.set(name)
    try:
        yield
    finally:
        _speaker.reset(token)


def _spoken(text: str) -> str:
    name = _speaker.get()
    return text if not name or name in text else f"{name}: {text.lstrip()}"


def _open_display() -> Progress | None:
    """The display that all tasks share; None where there is no terminal."""
    global _live, _users
    with _lock:
        if _live is None and not _plain and sys.stderr.isatty():
            _live = Progress(
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=console,
                transient=True,
            )  # fmt: skip
            _live.start()
        _users += _live is not None
        return _live


def _close_display(bar: Progress | None) -> None:
    """The last one out stops it."""
    global _live, _users
    with _lock:
        _users -= bar is not None
        if bar is not None and _users == 0:
            bar.stop()
            _live = None
