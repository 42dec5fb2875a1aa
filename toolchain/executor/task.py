"""A task: work that can be done in any process, on any machine that has the package, as often as it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolchain.errors import TaskError


@dataclass(frozen=True)
class Task:
    """A call of an importable function, which returns JSON types.

    A task may be done more than once (its machine died before it told), so it must not mind.

    Attributes:
        key: its name, unlike that of any other task of the same run.
        call: "package.module:function".
        arguments: keyword arguments, JSON types.
        files: keyword -> file that is read; where the task runs elsewhere, the contents travel.
        places: keyword -> file or folder that must be at the same path on every machine, such as a data set.
        work: given as `work`: a folder for what can be made again. On another machine one of its own takes its place.
        out: given as `out`: a folder that is filled. What is in it travels both ways.
        gpus: graphics cards it needs for itself; only Ray shares them out.
    """

    key: str
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)
    work: Path | None = None
    out: Path | None = None
    gpus: int = 0

    def __post_init__(self) -> None:
        json.dumps(dict(self.arguments))  # here, not on another machine

    def keywords(self) -> dict[str, Any]:
        """What the function is called with."""
        folders = {name: folder for name, folder in (("work", self.work), ("out", self.out)) if folder is not None}
        return {**self.arguments, **self.files, **self.places, **folders}


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a value, or why there is none."""

    value: Any = None
    error: str | None = None


class Executor(Protocol):
    """Runs tasks; made by `registry.make_executor`."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Every task with its result, each once, as they come.

        Whoever takes them keeps them: what was yielded is done, whatever happens to the rest. Given up in the middle (the
        iterator is closed, Ctrl-C), tasks under way are ended.

        Raises:
            TaskError: after all others are done, if some failed.
        """
        ...


def check_keys(tasks: Sequence[Task]) -> None:
    """Raises: ValueError for two tasks of one name."""
    keys = [task.key for task in tasks]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two tasks of one name: {sorted(key for key in set(keys) if keys.count(key) > 1)}")


def raise_failures(failures: Mapping[str, str], total: int) -> None:
    """Raises: TaskError, if there are any: task -> why."""
    if failures:
        lines = [f"{key}: {error}".replace("\n", "\n  ") for key, error in failures.items()]
        raise TaskError(
            f"{len(failures)} of {total} tasks failed", got="\n  ".join(lines),
            fix="the results of the others are kept: mend the cause and run the same command",
        )  # fmt: skip
