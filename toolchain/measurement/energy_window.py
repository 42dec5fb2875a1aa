"""One window of load between two rests: its energy, how sure that is, and whether it may be used.

Standard uncertainties, in J over the window, independent of each other and so added as squares:

    edges       sd(P) x (u + d) / sqrt(6): each of the two edges may be off by up to half a refresh u and a sampling interval d
    between     d / sqrt(12) x sqrt(sum of squared steps between readings): when exactly the power stepped is not seen
    rounding    q / sqrt(12) x T, all readings rounded the same way; where the power varies by more than the step q, / sqrt(m)
    count       E / (n sqrt(6)): at most one inference too many at one edge and one missed at the other
    idle        T x sqrt(sd(idle)^2 / m + drift^2 / 12 + rounding^2), for the marginal energy only

m is the number of independent values (changes of the reading). The sensor's own error is the same in every window: it
is added to the result of all windows, where it is known (device/energy_judge.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import MeasurementError
from toolchain.measurement import energy as power

GAP_LIMIT = 2.5  # sampling intervals
COVERAGE_LIMIT = 0.9
IDLE_DRIFT_LIMIT = 0.05
ENOUGH_VALUES = 100
SETTLE_S, SETTLE_SHARE = 2.0, 0.1  # of an idle phase, left out at its beginning

Span = tuple[float, float]


@dataclass(frozen=True)
class Sensor:
    """How the trace was taken.

    Attributes:
        refresh_s: time between new values, measured or declared.
        interval_s: time between readings, as asked for.
        quantum_w: step of the total's readings; None where not known.
    """

    refresh_s: float
    interval_s: float
    quantum_w: float | None = None

    @property
    def trim_s(self) -> float:
        """What is dropped at each edge of the window."""
        return max(self.refresh_s, self.interval_s)


@dataclass(frozen=True)
class Window:
    """Numbers of one window; None where the trace does not give them, with the reason.

    Attributes:
        start_s, end_s: of the trimmed window, on the device's monotonic clock.
        n: inferences completed inside it.
        idle_before_w, idle_after_w: mean power of the two idle phases; power_idle_w is the mean of both.
        idle_sd_w: standard deviation of the readings at rest.
        values: independent values in the window.
        peak_w: largest reading: a mean over the sensor's refresh, so no more than a lower bound of the true peak.
        parts_j: the standard uncertainties named above.
    """

    start_s: float
    end_s: float
    n: int
    energy_j: float | None = None
    energy_total_mj: float | None = None
    energy_marginal_mj: float | None = None
    uncertainty_total_mj: float | None = None
    uncertainty_marginal_mj: float | None = None
    power_mean_w: float | None = None
    power_idle_w: float | None = None
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    idle_sd_w: float | None = None
    idle_drift: float | None = None
    peak_w: float | None = None
    readings: int = 0
    values: int = 0
    largest_gap_s: float = 0.0
    coverage: float = 0.0
    parts_j: dict[str, float] | None = None
    reasons: tuple[str, ...] = ()
    low_confidence: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether its energy may be used."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        lists = {"reasons": list(self.reasons), "low_confidence": list(self.low_confidence)}
        return {**asdict(self), **lists, "valid": self.valid}


def window_of(
    trace: power.Trace, sensor: Sensor, *, idle: tuple[Span, Span], window: Span, ends_s: NDArray[np.float64],
    reasons: tuple[str, ...] = (),
) -> Window:  # fmt: skip
    """Energy of one window, with everything that speaks against it.

    Args:
        idle: the phases before and after.
        window: as the load generator stamped it.
        ends_s: end of every inference.
        reasons: found elsewhere (throttled, clocks moved, clock offset): they make the window invalid too.
    """
    a, b = window[0] + sensor.trim_s, window[1] - sensor.trim_s
    if b <= a:
        short = f"the window is shorter than the {2 * sensor.trim_s:.2f} s that are cut off its ends"
        return Window(*window, 0, reasons=(*reasons, short))
    n = int(((ends_s > a) & (ends_s <= b)).sum())
    found = [*reasons, *([trace.problem] if trace.problem else []), *([] if n else ["no inference was completed in the window"])]
    inside = power.between(trace, a, b)
    seen: dict[str, Any] = {
        "readings": len(inside), "values": power.changes(inside) + 1 if len(inside) else 0,
        "largest_gap_s": power.largest_gap(trace, a, b),
        "coverage": power.coverage(trace, a, b, GAP_LIMIT * sensor.interval_s),
    }  # fmt: skip
    if seen["largest_gap_s"] > GAP_LIMIT * sensor.interval_s:
        found.append(f"no reading for {seen['largest_gap_s']:.2f} s in the window; {sensor.interval_s:.3f} s are usual")
    if seen["coverage"] < COVERAGE_LIMIT:
        found.append(f"readings cover {seen['coverage']:.0%} of the window, {COVERAGE_LIMIT:.0%} are needed")
    rest = [power.between(trace, *_settled(span, sensor.trim_s)) for span in idle]
    few = f"{seen['values']} independent values in the window, fewer than {ENOUGH_VALUES}"
    low = (few,) if seen["values"] < ENOUGH_VALUES else ()
    try:
        energy = power.energy_j(trace, a, b)
        if any(len(readings) < 2 for readings in rest):
            raise MeasurementError("too few readings in an idle phase")
    except MeasurementError as error:
        return Window(a, b, n, **seen, reasons=(*found, str(error).replace("\n  ", ", ")), low_confidence=low)
    found += _stuck(trace, idle, window)
    numbers = _numbers(sensor, inside, rest, energy, b - a, n, seen["values"])
    if numbers["idle_drift"] > IDLE_DRIFT_LIMIT:
        moved = f"idle power moved by {numbers['idle_drift']:.1%} between before and after"
        found.append(f"{moved}, the limit is {IDLE_DRIFT_LIMIT:.0%}")
    return Window(a, b, n, **seen, **numbers, reasons=tuple(found), low_confidence=low)


def _numbers(
    sensor: Sensor, inside: power.Array, rest: list[power.Array], energy_j: float, length_s: float, n: int, values: int
) -> dict[str, Any]:
    """Energy of an inference and its uncertainty."""
    before, after = (float(readings.mean()) for readings in rest)
    idle = (before + after) / 2
    sd_idle = float(np.sqrt(np.mean([readings.var(ddof=1) for readings in rest])))
    parts = _uncertainties(sensor, inside, energy_j, length_s, max(n, 1), values)
    independent = max(1, min(power.changes(readings) + 1 for readings in rest))
    rounding_w = _rounding_w(sensor.quantum_w, sd_idle, independent)
    parts["idle"] = length_s * float(np.sqrt(sd_idle**2 / independent + (after - before) ** 2 / 12 + rounding_w**2))
    total_u = float(np.sqrt(sum(part**2 for name, part in parts.items() if name != "idle")))
    marginal_u = float(np.hypot(total_u, parts["idle"]))
    per_mj = 1000.0 / n if n else None

    def each(joules: float) -> float | None:
        return None if per_mj is None else joules * per_mj

    return {
        "energy_j": energy_j, "energy_total_mj": each(energy_j), "energy_marginal_mj": each(energy_j - idle * length_s),
        "uncertainty_total_mj": each(2 * total_u), "uncertainty_marginal_mj": each(2 * marginal_u),
        "power_mean_w": energy_j / length_s, "power_idle_w": idle, "idle_before_w": before, "idle_after_w": after,
        "idle_sd_w": sd_idle, "idle_drift": abs(after - before) / max(abs(idle), 1e-9),
        "peak_w": float(inside.max()) if len(inside) else None, "parts_j": parts,
    }  # fmt: skip


def _uncertainties(
    sensor: Sensor, inside: power.Array, energy_j: float, length_s: float, n: int, values: int
) -> dict[str, float]:
    """The parts that total and marginal energy share, J."""
    sd = float(inside.std(ddof=1)) if len(inside) > 1 else 0.0
    steps = float(np.sqrt((np.diff(inside) ** 2).sum())) if len(inside) > 1 else 0.0
    return {
        "edges": sd * (sensor.refresh_s + sensor.interval_s) / np.sqrt(6),
        "between": sensor.interval_s / np.sqrt(12) * steps,
        "rounding": _rounding_w(sensor.quantum_w, sd, values) * length_s,
        "count": energy_j / (n * np.sqrt(6)),
    }


def _rounding_w(quantum_w: float | None, sd_w: float, values: int) -> float:
    """Standard uncertainty of a mean by the step of its readings: it averages out only where they vary by more than the step."""
    if not quantum_w:
        return 0.0
    return quantum_w / float(np.sqrt(12 * max(values, 1) if sd_w > quantum_w else 12))


def _settled(span: Span, trim_s: float) -> Span:
    """What of an idle phase counts: not its beginning, nor what the sensor mixes with the phases beside it."""
    start, end = span
    return start + min(SETTLE_S, SETTLE_SHARE * (end - start)) + trim_s, end - trim_s


def _stuck(trace: power.Trace, idle: tuple[Span, Span], window: Span) -> list[str]:
    """A sensor that does not notice the load's beginning or its end says nothing about the load."""
    times, watts = power.power_w(trace)
    moved = times[1:][watts[1:] != watts[:-1]]
    spans = {"beginning": (idle[0][0], window[1]), "end": (window[1], idle[1][1])}
    return [
        f"the sensor's value did not change at the {what} of the load: it is stuck, or does not see the load"
        for what, (a, b) in spans.items()
        if not ((moved > a) & (moved < b)).any()
    ]
