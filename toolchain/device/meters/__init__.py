"""External power meters, one file a kind: anything that gives times and watts, perhaps joules.

A meter whose readings this host receives one by one (`http`, `command`) is stamped by this host, whose clock is held against
the device's before and after. One with times of its own (`csv`) keeps them; where they lie on the device's clock is
found afterwards from bursts of load (measurement/energy_marker.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from toolchain.device.session import AgentSession
from toolchain.errors import UsageError

LIMIT = 1 << 20  # readings of one repeat


@dataclass
class Readings:
    """What a meter said, in its order.

    Attributes:
        t_s: on the device's monotonic clock, or unix time by the meter's own clock where `own_clock`.
        watts: NaN where it gave none.
        joules: the meter's own counter, as long as `t_s`, or empty.
        offset_error_s: how wrong `t_s` may be on the device's clock; None with `own_clock`.
        problem: why the meter stopped early, "" where it did not.
    """

    own_clock: bool
    t_s: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    offset_error_s: float | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON; NaN becomes None."""
        watts = [None if value != value else value for value in self.watts]
        return {**self.__dict__, "watts": watts}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Readings:
        """Inverse of `to_json`."""
        return Readings(**{**data, "watts": [float("nan") if value is None else value for value in data["watts"]]})


class Meter(Protocol):
    """A meter, ready to be started as often as there are repeats.

    Attributes:
        kind: csv, http or command.
        own_clock: its times are its own, so marker bursts are needed.
        refresh_s: what to expect of it; sets the window's length.
    """

    kind: str
    own_clock: bool
    refresh_s: float

    def running(self, session: AgentSession) -> AbstractContextManager[Readings]:
        """A context that reads the meter while it lasts, and gives Readings that are complete at its end.

        Args:
            session: a process on the device, for its clock.
        """
        ...

    def about(self) -> dict[str, Any]:
        """For the record."""
        ...


def open_meter(text: str) -> Meter:
    """A meter from `csv:PATH`, `http:URL#json.path[*scale]` or `command:WORDS`.

    Raises:
        UsageError: none of these, or one that cannot be used.
    """
    from toolchain.device.meters.command import CommandMeter
    from toolchain.device.meters.csv_file import CsvMeter
    from toolchain.device.meters.http_json import HttpMeter

    kind, _, rest = text.partition(":")
    kinds = {"csv": CsvMeter, "http": HttpMeter, "https": HttpMeter, "command": CommandMeter}
    if kind not in kinds or not rest:
        raise UsageError("not a meter", got=repr(text), fix="csv:PATH, http:URL#json.path or command:WORDS")
    meter: Meter = kinds[kind](text if kind in ("http", "https") and rest.startswith("//") else rest)
    return meter
