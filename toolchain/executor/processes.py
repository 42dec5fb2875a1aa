"""Tasks in processes of this machine: the standard library's pool, made anew when one of its processes dies."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from toolchain.executor.task import Outcome, Task, check_keys, raise_failures
from toolchain.executor.worker import attempt_apart, start

MOST_WORKERS = 8  # unless more are asked for: each holds a network and its pictures


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    return len(os.sched_getaffinity(0))


class Processes:
    """
    Attributes:
        workers: processes at a time; the cores are shared out between them.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or min(cores(), MOST_WORKERS)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """See `Executor`. A task whose process died is tried once more, alone, so that the culprit is known by name."""
        check_keys(tasks)
        failures: dict[str, str] = {}
        waiting, suspects = deque(tasks), deque[Task]()
        while waiting:
            yield from _drain(waiting, min(self.workers, len(waiting)), suspects, failures)
        for task in suspects:
            dead = deque[Task]()
            yield from _drain(deque([task]), 1, dead, failures)
            failures |= {one.key: "its process died, twice: killed, or out of memory" for one in dead}
        raise_failures(failures, len(tasks))


def _drain(waiting: deque[Task], workers: int, lost: deque[Task], failures: dict[str, str]) -> Iterator[tuple[Task, Any]]:
    """Until nothing is waiting, or a process has died: then what was under way is added to `lost`."""
    running: dict[Future[Outcome], Task] = {}
    broken = False
    with _pool(workers) as pool:
        while running or (waiting and not broken):
            while waiting and not broken and len(running) < workers:
                try:
                    running[pool.submit(attempt_apart, waiting[0])] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:
                    broken = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, problem = running.pop(future), future.exception()
                if isinstance(problem, BrokenProcessPool):
                    lost.append(task)
                    broken = True
                elif (outcome := future.result()).error is None:
                    yield task, outcome.value
                else:
                    failures[task.key] = outcome.error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end when the block is left by an error, or when this process dies."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    limit = int(os.environ.get("OMP_NUM_THREADS") or cores())
    threads = max(1, min(cores() // workers, limit))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start, initargs=(theirs, threads))
    try:
        yield pool
    except BaseException:
        ours.close()  # tasks under way are not waited for
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()
