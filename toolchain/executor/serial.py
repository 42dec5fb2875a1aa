"""One task after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolchain.executor.task import Task, check_keys, raise_failures
from toolchain.executor.worker import attempt


class Serial:
    """The default: nothing to start, nothing to wait for."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """See `Executor`."""
        check_keys(tasks)
        failures: dict[str, str] = {}
        for task in tasks:
            outcome = attempt(task)
            if outcome.error is None:
                yield task, outcome.value
            else:
                failures[task.key] = outcome.error
        raise_failures(failures, len(tasks))
