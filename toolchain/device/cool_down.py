"""Waiting until a device is as warm as when its benchmark first began: the heat of other work is not to be in the numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from toolchain import progress
from toolchain.device import stop
from toolchain.device.state_messages import State

WITHIN_C = 2.0
LOOK_EVERY_S = 2.0
COLD_LOOKS = 5  # a wait warms nothing up, but sensors jump: given up when so many looks in a row say that it is only too cold
HOTTEST = "hottest"
NO_SENSOR = "the temperature at the start is unknown, and nothing was waited for"


@dataclass(frozen=True)
class Away:
    """A zone that is not within 2 degrees of where it should be at the start, Celsius."""

    zone: str
    is_c: float
    wanted_c: float

    def __str__(self) -> str:
        return f"{self.zone} is at {self.is_c:.1f} C, the start is at {self.wanted_c:.1f} C"


@dataclass(frozen=True)
class CoolDown:
    """How the wait went.

    Attributes:
        reference_c: temperature to begin at, by zone, or of the HOTTEST one; empty where none is known yet.
        waited_s: 0 where the device was ready at the first look.
        away: zones that never came there.
        flag: what to know when reading the numbers.
    """

    reference_c: dict[str, float]
    waited_s: float = 0.0
    away: tuple[Away, ...] = ()
    flag: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def away_from(reference_c: Mapping[str, float], now_c: Mapping[str, float]) -> list[Away]:
    """The zones 2 degrees or more from their reference, the farthest first; zones that only one side has are left out."""
    pairs = [(zone, now_c[zone], wanted) for zone, wanted in reference_c.items() if zone in now_c]
    if HOTTEST in reference_c and now_c:
        hottest = max(now_c, key=lambda zone: now_c[zone])
        pairs = [(hottest, now_c[hottest], reference_c[HOTTEST])]
    found = [Away(*pair) for pair in pairs if abs(pair[1] - pair[2]) >= WITHIN_C]
    return sorted(found, key=lambda one: -abs(one.is_c - one.wanted_c))


def cool_down(look: Callable[[], State], reference_c: Mapping[str, float], timeout_s: float, name: str) -> CoolDown:
    """Wait until every readable zone is within 2 degrees of its reference.

    Args:
        look: the device's state now.
        reference_c: Celsius by zone, or {HOTTEST: C}; empty: there is none yet, and nothing is waited for.
        timeout_s: longest wait; also given up where the device is only too cold.
        name: of the device, for the reader.

    Returns:
        how it went: `away` is empty when the device got there.
    """
    reference, state = dict(reference_c), look()
    begin, waited_s, cold = time.monotonic(), 0.0, 0
    with progress.task(f"{name} cools down, at most", total=round(timeout_s), unit="s") as task:
        while True:
            now_c = state.temperature_c or {}
            if not now_c:
                why = state.unreadable.get("temperature_c", "no zone answers")
                return CoolDown(reference, waited_s, flag=f"no temperature can be read ({why}): {NO_SENSOR}")
            if reference and HOTTEST not in reference and not reference.keys() & now_c.keys():
                return CoolDown(reference, waited_s, flag=f"no zone that answered at the first start answers now: {NO_SENSOR}")
            away = away_from(reference, now_c)
            cold = cold + 1 if all(one.is_c < one.wanted_c for one in away) else 0
            if not away or waited_s >= timeout_s or cold == COLD_LOOKS:
                break
            stop.sleep(min(LOOK_EVERY_S, timeout_s - waited_s))
            waited_s = time.monotonic() - begin
            task.advance(max(0, int(waited_s) - task.done), note=str(away[0]))
            state = look()
    told = "" if not away else f"started at another temperature, after {waited_s:.0f} s: {'; '.join(map(str, away))}"
    return CoolDown(reference, waited_s, tuple(away), told or None)
