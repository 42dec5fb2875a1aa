"""The side that does the work: one task at a time, its errors as text, so that no exception has to cross a process."""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import signal
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from toolchain import progress
from toolchain.errors import DataError, ToolchainError
from toolchain.executor.task import Outcome, Task


def attempt(task: Task) -> Outcome:
    """Do a task. Its errors are part of the outcome; only the death of the process is not."""
    try:
        _check_places(task)
        function = pkgutil.resolve_name(task.call)
        with progress.speaker(task.key):
            value = function(**task.keywords())
        return Outcome(json.loads(json.dumps(value)))  # the same types, however far it has travelled
    except ToolchainError as error:
        return Outcome(error=f"{type(error).__name__} on {node()}: {error}")
    except Exception as error:  # noqa: BLE001 - the other tasks go on; whoever asked for it is told
        return Outcome(error=f"{type(error).__name__} on {node()}: {error}\n{traceback.format_exc()}")


def attempt_apart(task: Task) -> Outcome:
    """`attempt` in a process of its own, whose stdout belongs to nobody."""
    with contextlib.redirect_stdout(sys.stderr):
        return attempt(task)


def node() -> str:
    """This machine, for people."""
    return socket.gethostname()


def _check_places(task: Task) -> None:
    for path in task.places.values():
        if not path.exists():
            raise DataError("a path of the task is not on this machine", got=path, fix="put it at the same path on every node")


def start(driver: Connection, threads: int) -> None:
    """Begin a worker process of this machine.

    Args:
        driver: the end of a pipe; the process ends when the other end is closed or dies.
        threads: of every library that counts by OMP_NUM_THREADS.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives out the work
    use_threads(threads)
    progress.plain()
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()


def _end_with(driver: Connection) -> None:
    driver.poll(None)
    os._exit(1)


def use_threads(threads: int) -> None:
    """From now on; best before torch is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
