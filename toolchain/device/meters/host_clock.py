"""Readings that this host stamps as they come: a thread takes them, and their times are put on the device's clock at the end.

The device's monotonic clock is held against this host's over an open session: t0 here, t there, t1 here. The offset
t - (t0 + t1) / 2 is wrong by (t1 - t0) / 2 at most; of many tries the quickest counts. It is taken before and after, and runs
straight in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import FiniteFloat

from toolchain.device.messages import Message, check
from toolchain.device.meters import LIMIT, Readings
from toolchain.device.session import AgentSession

TRIES = 20


class Clocks(Message):
    monotonic_s: FiniteFloat
    unix_s: FiniteFloat


def offset(session: AgentSession) -> tuple[float, float, float]:
    """(this host's monotonic time, device's minus it, bound of the error), s."""
    best: tuple[float, float, float] | None = None
    for _ in range(TRIES):
        before = time.monotonic()
        there = check(Clocks, session.request("clock", timeout_s=30.0)).monotonic_s
        after = time.monotonic()
        here, error = (before + after) / 2, (after - before) / 2
        if best is None or error < best[2]:
            best = here, there - here, error
    assert best is not None
    return best


@contextmanager
def stamped(session: AgentSession, take: Callable[[Callable[..., None], threading.Event], None]) -> Iterator[Readings]:
    """Readings that `take(keep, stop)` gives to `keep(t, watts, joules)` in a thread of its own, until `stop` is set.

    What `take` raises becomes the readings' `problem`: the run goes on, and is judged with what there is.
    """
    readings, stop = Readings(own_clock=False), threading.Event()

    def keep(t: float, watts: float, joules: float | None = None) -> None:
        readings.t_s.append(t)
        readings.watts.append(watts)
        if joules is not None:
            readings.joules.append(joules)
        if len(readings.t_s) > LIMIT:
            raise ValueError(f"more than {LIMIT} readings")

    def work() -> None:
        try:
            take(keep, stop)
        except Exception as error:  # noqa: BLE001 - told with the result
            readings.problem = f"{type(error).__name__}: {error}"

    first = offset(session)
    thread = threading.Thread(target=work, name="meter")
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
    if not readings.own_clock:
        put_on_device_clock(readings, first, offset(session))


def put_on_device_clock(readings: Readings, first: tuple[float, float, float], last: tuple[float, float, float]) -> None:
    """Move the times by the offset, which ran straight from `first` to `last`."""
    drift = (last[1] - first[1]) / max(last[0] - first[0], 1e-9)
    readings.t_s = [t + first[1] + drift * (t - first[0]) for t in readings.t_s]
    readings.offset_error_s = max(first[2], last[2])
