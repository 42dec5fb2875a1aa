"""What an energy measurement is asked to be: how long its phases, how often, by which meter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from toolchain.errors import UsageError

METERS = ("csv", "http", "command")
MARKER_S = (3.0, 3.35, 3.7)  # three bursts of unequal length: a meter that reads once a second meets their edges at other phases


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase of one repeat: idle, lead-in, window, run-on, idle; before it marker bursts where a meter needs them.

    Attributes:
        window_s: the least; `updates` of the sensor make it longer where it refreshes slowly.
        updates: the window holds at least so many of the sensor's refreshes.
        swings: of load and rest before everything, to see the sensor's refresh.
        run_on_s: load after the window, so that a small clock error still samples load.
    """

    idle_s: float
    lead_in_s: float
    window_s: float
    updates: int
    run_on_s: float
    marker_s: tuple[float, ...] = MARKER_S
    swings: int = 4

    def window_for(self, refresh_s: float | None) -> float:
        """Length of the window for a sensor of this refresh."""
        return max(self.window_s, (self.updates + 2) * (refresh_s or 0.0))  # one refresh is cut off at each end


PROFILES = {
    "search": Phases(idle_s=10.0, lead_in_s=3.0, window_s=20.0, updates=50, run_on_s=1.0),
    "report": Phases(idle_s=30.0, lead_in_s=5.0, window_s=60.0, updates=100, run_on_s=1.0),
}


@dataclass(frozen=True)
class EnergyRequest:
    """How energy is to be measured.

    Attributes:
        profile: `report` for figures to quote, `search` for a quick comparison (marked so).
        meter: None for the target's own sensor; `csv:PATH`, `http:URL#json.path[*scale]` or `command:WORDS` for an external one.
        meter_scope: what an external meter sees.
        repeats: windows of every engine; 3 to 5 are usual, 6 give a 95 % interval.
        rate_hz: inferences a second, at the pace of a camera; None: back to back.
        meter_error_percent, meter_error_w: largest error of the external meter: so much of the reading, plus so many watts.
        phases: other lengths than the profile's, for tests; recorded with the result.

    Raises:
        UsageError: a value that is none of these.
    """

    profile: Literal["search", "report"] = "report"
    meter: str | None = None
    meter_scope: Literal["dc_input", "ac_wall"] = "ac_wall"
    repeats: int = 3
    rate_hz: float | None = None
    phases: Phases | None = None
    meter_error_percent: float | None = None
    meter_error_w: float | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise UsageError("not an energy profile", got=repr(self.profile), fix=f"one of {', '.join(PROFILES)}")
        if not 1 <= self.repeats <= 100:
            raise UsageError("repeats must be 1 to 100", got=self.repeats, fix="3 to 5 are usual")
        if self.meter is not None and self.meter.partition(":")[0] not in METERS:
            fix = "csv:PATH, http:URL#json.path or command:WORDS"
            raise UsageError("not a meter", got=repr(self.meter), fix=fix)
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise UsageError("rate_hz must be above 0 and at most 1000", got=self.rate_hz)
        if not 0 < (1.0 if self.meter_error_percent is None else self.meter_error_percent) <= 50:
            raise UsageError("a meter's error must be above 0 % and at most 50 %", got=self.meter_error_percent)
        if not 0 < (1.0 if self.meter_error_w is None else self.meter_error_w) < 1000:
            raise UsageError("a meter's error must be above 0 W and below 1000 W", got=self.meter_error_w)
        if self.meter is None and (self.meter_error_percent is not None or self.meter_error_w is not None):
            fix = "error_percent and error_w in the target say it of a device's own sensor"
            raise UsageError("the error of a meter is given, and no meter", fix=fix)
        lengths = self.lengths
        if any(not 0 < seconds < 7200 for seconds in (lengths.idle_s, lengths.lead_in_s, lengths.window_s, lengths.run_on_s)):
            raise UsageError("a phase must last 0 to 7200 seconds", got=asdict(lengths))

    @property
    def lengths(self) -> Phases:
        """The phases in force."""
        return self.phases or PROFILES[self.profile]

    def meter_error(self) -> dict[str, float | None]:
        """For the record, as a target's source has it."""
        return {"error_percent": self.meter_error_percent, "error_w": self.meter_error_w}

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {**asdict(self), "phases": asdict(self.lengths)}
