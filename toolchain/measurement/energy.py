"""Energy of a window from a power trace: pure functions of time stamps and readings.

Times are seconds on one clock. A sensor that averages over its refresh u and holds the value until the next shows, over time, the
true power u too late: half a refresh for the mean, half for the hold. `lag_s` takes that off the readings' times, so that a
window counts its own power and not that of the time before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolchain.errors import MeasurementError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """The total over time.

    Attributes:
        t_s: (n,) increasing; the sensor's lag is already taken off.
        values: (n,) W, or J for a counter, without wraps.
        counter: whether `values` are a counter.
        problem: what is wrong with the trace as a whole, "" when nothing is.
    """

    t_s: Array
    values: Array
    counter: bool
    problem: str = ""


def total(t_s: ArrayLike, rails: Mapping[str, ArrayLike], roles: Mapping[str, str], *, unit: str = "W",
          wrap_j: float | None = None, lag_s: float = 0.0) -> Trace:  # fmt: skip
    """Sum of the rails that make the total. A reading that lacks one of them is a gap.

    Args:
        t_s: (n,) when each reading was taken.
        rails: NAME -> (n,) W or J; NaN where it could not be read.
        roles: NAME -> "total" (by itself), "+" (summed) or "info" (never in the total).
        unit: "W", or "J" for counters.
        wrap_j: range of a counter: it starts again from 0 there.

    Raises:
        MeasurementError: no rail makes the total, or one would be counted twice.
    """
    whole = [name for name, role in roles.items() if role == "total"]
    parts = [name for name, role in roles.items() if role == "+"]
    if len(whole) > 1 or (whole and parts) or not (whole or parts):
        raise MeasurementError("no total: one rail must be the total, or some be summed", got=dict(roles))
    missing = [name for name in whole or parts if name not in rails]
    if missing:
        raise MeasurementError("rails of the total were not sampled", got=missing)
    t = np.asarray(t_s, dtype=np.float64)
    if len(t) > 1 and not (np.diff(t) > 0).all():
        raise MeasurementError("readings are not in the order of time")
    values = [np.asarray(rails[name], dtype=np.float64) for name in whole or parts]
    good = np.isfinite(np.sum(values, axis=0)) if len(t) else np.zeros(0, dtype=bool)
    t, values, problem = t[good], [value[good] for value in values], ""
    if unit == "J":
        unwrapped = [unwrap(t, value, wrap_j) for value in values]
        values, problem = [value for value, _ in unwrapped], next((text for _, text in unwrapped if text), "")
    summed = np.sum(values, axis=0) if values else np.zeros(0)
    return Trace(t - lag_s, summed, unit == "J", problem)


def unwrap(t_s: Array, counter_j: Array, wrap_j: float | None) -> tuple[Array, str]:
    """The counter as if it never started again from 0, and what makes that doubtful ("" when nothing does)."""
    steps = np.diff(counter_j)
    back = steps < 0
    if back.any() and not wrap_j:
        return counter_j, "the energy counter went backwards"
    if wrap_j:
        steps = np.where(back, steps + wrap_j, steps)
        if (steps < 0).any():
            return counter_j, "the energy counter went back by more than its range"
        gaps = np.diff(t_s)
        if len(steps) > 1:
            usual = float(np.median(gaps))
            rate = float((steps[gaps <= 1.5 * usual] / gaps[gaps <= 1.5 * usual]).max())
            if (rate * gaps >= wrap_j).any():
                return counter_j, "the energy counter may have started again twice between two readings"
    return np.concatenate([counter_j[:1], counter_j[:1] + np.cumsum(steps)]), ""


def energy_j(trace: Trace, a: float, b: float) -> float:
    """Energy in [a, b], J: the trapezoid over the readings' own times, or a counter's difference; interpolated at the edges.

    Raises:
        MeasurementError: the readings do not reach over the window.
    """
    t, values = trace.t_s, trace.values
    if not len(t) or t[0] > a or t[-1] < b or b <= a:
        raise MeasurementError("the readings do not cover the window", got=f"{a:.3f} to {b:.3f} s")
    at_a, at_b = np.interp([a, b], t, values)
    if trace.counter:
        return float(at_b - at_a)
    inside = (t > a) & (t < b)
    times = np.concatenate([[a], t[inside], [b]])
    watts = np.concatenate([[at_a], values[inside], [at_b]])
    return float((np.diff(times) * (watts[1:] + watts[:-1]) / 2).sum())


def power_w(trace: Trace) -> tuple[Array, Array]:
    """The trace as power: times and W; for a counter the mean between two readings, at their middle."""
    if not trace.counter:
        return trace.t_s, trace.values
    return (trace.t_s[1:] + trace.t_s[:-1]) / 2, np.diff(trace.values) / np.diff(trace.t_s)


def between(trace: Trace, a: float, b: float) -> Array:
    """Power readings strictly inside (a, b), W."""
    t, watts = power_w(trace)
    return watts[(t > a) & (t < b)]


def changes(values: ArrayLike) -> int:
    """How often a reading differs from the one before: repeats are no new information."""
    array = np.asarray(values)
    return int((array[1:] != array[:-1]).sum()) if len(array) else 0


def largest_gap(trace: Trace, a: float, b: float) -> float:
    """Longest time without a reading in [a, b], the edges counted, s."""
    times = np.concatenate([[a], trace.t_s[(trace.t_s > a) & (trace.t_s < b)], [b]])
    return float(np.diff(times).max())


def coverage(trace: Trace, a: float, b: float, longest_s: float) -> float:
    """Share of [a, b] that lies between readings no further apart than `longest_s`."""
    times = np.concatenate([[a], trace.t_s[(trace.t_s > a) & (trace.t_s < b)], [b]])
    gaps = np.diff(times)
    return float(gaps[gaps <= longest_s].sum() / (b - a))
