"""Ctrl-C reaches the main thread alone: threads that work for it ask here, while they wait, whether they are to stop."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LOOK_EVERY_S = 0.2
_thread = threading.local()


def obey(event: threading.Event) -> None:
    """Once `event` is set, the next wait of this thread raises KeyboardInterrupt, as Ctrl-C would; later waits are clean-up."""
    _thread.event = event


def _told() -> None:
    event: threading.Event | None = getattr(_thread, "event", None)
    if event is not None and event.is_set():
        _thread.event = None
        raise KeyboardInterrupt


def wait(ready: Callable[[float], T], timeout_s: float) -> T:
    """The first true value of `ready(seconds)`, which waits at most that long, or its last one after `timeout_s`.

    Raises:
        KeyboardInterrupt: this thread was told to stop.
    """
    if getattr(_thread, "event", None) is None:
        return ready(timeout_s)
    until = time.monotonic() + timeout_s
    while True:
        _told()
        left_s = until - time.monotonic()
        found = ready(max(0.0, min(left_s, LOOK_EVERY_S)))
        if found or left_s <= LOOK_EVERY_S:
            return found


def result(future: concurrent.futures.Future[T], timeout_s: float) -> T:
    """future.result(timeout_s), given up when this thread is told to stop."""
    try:
        wait(lambda seconds: concurrent.futures.wait([future], seconds).done, timeout_s)
    except KeyboardInterrupt:
        future.cancel()
        raise
    return future.result(0)


def sleep(seconds: float) -> None:
    """time.sleep, cut short when this thread is told to stop."""
    wait(lambda some: time.sleep(some), seconds)
