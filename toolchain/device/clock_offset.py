"""How far the device's clocks are from this host's: many stamps over one channel, the quickest one counts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import FiniteFloat

from toolchain.device.messages import Message, check
from toolchain.device.session import AgentSession
from toolchain.errors import UsageError

STAMPS = 20
ANSWER_S = 30.0


class Stamp(Message):
    monotonic_s: FiniteFloat
    unix_s: FiniteFloat


@dataclass(frozen=True)
class ClockOffset:
    """Device minus host, at one moment.

    Attributes:
        unix_s: device's unix time - host's.
        monotonic_s: device's monotonic clock - host's unix time; places stamps of the device in the host's time.
        error_s: the true offset is within +- this, half the quickest round trip.
        at_unix: when, by the host's clock.
        drift_ppm: of `between`, else None.
    """

    unix_s: float
    monotonic_s: float
    error_s: float
    round_trip_s: float
    stamps: int
    at_unix: float
    drift_ppm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

    def host_unix(self, monotonic_s: float) -> float:
        """A stamp of the device's monotonic clock as the host's unix time."""
        return monotonic_s - self.monotonic_s


def measure(session: AgentSession, stamps: int = STAMPS) -> ClockOffset:
    """Ask a running agent for its clocks `stamps` times.

    Raises:
        UsageError: fewer than one.
        DeviceError and its kinds.
    """
    if stamps < 1:
        raise UsageError("stamps must be at least 1", got=stamps)
    return best_of([_exchange(session) for _ in range(stamps)])


def _exchange(session: AgentSession) -> tuple[float, float, Stamp]:
    """Host's unix time before, seconds until the answer, the answer."""
    unix, start = time.time(), time.monotonic()
    answer = session.request("clock", timeout_s=ANSWER_S)
    return unix, time.monotonic() - start, check(Stamp, answer)


def best_of(exchanges: list[tuple[float, float, Stamp]]) -> ClockOffset:
    """The offset by the exchange with the shortest round trip.

    The device read its clock somewhere between the two ends, so the middle is off by half the round trip at most.
    """
    unix, round_trip, stamp = min(exchanges, key=lambda exchange: exchange[1])
    middle = unix + round_trip / 2
    return ClockOffset(
        stamp.unix_s - middle, stamp.monotonic_s - middle, round_trip / 2, round_trip, len(exchanges), middle,
    )  # fmt: skip


def between(before: ClockOffset, after: ClockOffset, host_unix: float) -> ClockOffset:
    """The offset at a moment between two measured ones, by a straight line; the error is the larger of the two.

    Raises:
        UsageError: both at the same moment.
    """
    span = after.at_unix - before.at_unix
    if span <= 0:
        raise UsageError("two offsets must be taken one after the other", got=span)
    share = (host_unix - before.at_unix) / span
    drift = (after.monotonic_s - before.monotonic_s) / span
    return ClockOffset(
        before.unix_s + share * (after.unix_s - before.unix_s),
        before.monotonic_s + share * (after.monotonic_s - before.monotonic_s),
        max(before.error_s, after.error_s),
        max(before.round_trip_s, after.round_trip_s),
        min(before.stamps, after.stamps),
        host_unix,
        drift * 1e6,
    )
