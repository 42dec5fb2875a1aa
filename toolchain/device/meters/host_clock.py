"""Readings that this host stamps as they come: a thread takes them, and their times are put on the device's clock at the end.

How far the device's clock is from this host's is asked before and after (clock_offset.py), and runs straight in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toolchain.device import clock_offset
from toolchain.device.clock_offset import ClockOffset
from toolchain.device.meters import LIMIT, Readings
from toolchain.device.session import AgentSession

STEADY_PPM = 500.0  # clocks that part faster were set meanwhile


@contextmanager
def stamped(session: AgentSession, take: Callable[[Callable[..., None], threading.Event], None]) -> Iterator[Readings]:
    """Readings that `take(keep, stop)` gives to `keep(unix time, watts, joules)` in a thread of its own, until `stop` is set.

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

    first = clock_offset.measure(session)
    thread = threading.Thread(target=work, name="meter")
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
    put_on_device_clock(readings, first, clock_offset.measure(session))


def put_on_device_clock(readings: Readings, first: ClockOffset, last: ClockOffset) -> None:
    """Unix times of this host become times on the device's monotonic clock."""
    drift = (last.monotonic_s - first.monotonic_s) / (last.at_unix - first.at_unix)
    readings.t_s = [t + clock_offset.between(first, last, t).monotonic_s for t in readings.t_s]
    readings.offset_error_s = max(first.error_s, last.error_s)
    if abs(drift) * 1e6 > STEADY_PPM:
        readings.offset_error_s += abs(last.monotonic_s - first.monotonic_s)
        readings.problem = readings.problem or "a clock was set while the meter ran"
