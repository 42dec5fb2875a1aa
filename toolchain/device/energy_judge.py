"""From the raw files of one repeat to its numbers, and from all repeats of an engine to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.device import stability
from toolchain.device.energy_files import Array, load_readings, load_stamps
from toolchain.device.energy_run import ABOUT, METER, READINGS, STAMPS
from toolchain.device.energy_sensor import Chosen
from toolchain.device.messages import check
from toolchain.device.meters import Readings
from toolchain.device.state_messages import State
from toolchain.errors import MeasurementError
from toolchain.measurement import energy as power
from toolchain.measurement.energy_marker import find_offset
from toolchain.measurement.energy_result import EnergyResult, not_measured
from toolchain.measurement.energy_window import Sensor, Span, Window, window_of
from toolchain.stage import read_json

OVERHEAD_LIMIT = 0.02
OFFSET_LIMIT = 0.05  # of the lead-in
ENOUGH_REPEATS = 3
SLOWEST_REFRESH_S = 5.0
SELDOM = 0.1
UNKNOWN_ERROR = "the uncertainty leaves out the error of the sensor itself, which nobody states"
MARKED = ("marker_load", "lead_in", "window", "run_on")


@dataclass(frozen=True)
class Repeat:
    """One repeat: its numbers, what to note, and the latencies in its window, ms."""

    window: Window
    notes: tuple[str, ...]
    latency_ms: Array


def judge(folder: Path, chosen: Chosen | None) -> Repeat:
    """One repeat, by the device's own sensor or, with None, by an external meter.

    Raises:
        ProtocolError: a file of the device is not what it must be.
    """
    about = read_json(folder / ABOUT)
    spans = {phase["name"]: (phase["start_s"], phase["end_s"]) for phase in about["load"]["phases"]}
    stamps = load_stamps(folder / STAMPS, about["load"]["inferences"])
    reasons, notes = _state(about["states"])
    if chosen is not None:
        trace, sensor = _own(folder, about, chosen, notes)
    else:
        trace, sensor = _external(folder, about, spans, reasons, notes)
    window = window_of(
        trace, sensor, idle=(spans["idle_before"], spans["idle_after"]), window=spans["window"], ends_s=stamps[:, 1],
        reasons=tuple(reasons),
    )  # fmt: skip
    inside = stamps[(stamps[:, 0] >= spans["window"][0]) & (stamps[:, 1] <= spans["window"][1])]
    return Repeat(window, tuple(notes), 1000 * (inside[:, 1] - inside[:, 0]))


def _state(states: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Why the device's state makes the window invalid, and what to note of it."""
    before, loaded, after = (check(State, states[when]) for when in ("before", "loaded", "after"))
    throttled = [f"{reason} (under load)" for reason in stability.throttled_now(loaded)]
    return [*stability.moved(before, after), *throttled], stability.notes(before, after)


def _own(folder: Path, about: dict[str, Any], chosen: Chosen, notes: list[str]) -> tuple[power.Trace, Sensor]:
    reader, sampler = chosen.reader, about["sampler"]
    t_s, rails = load_readings(folder / READINGS, reader.rails)
    if sampler["settings"] != reader.settings:
        notes.append(f"the sensor's settings changed: {reader.settings}, then {sampler['settings']}")
    if sampler["gaps"]:
        notes.append(f"{sampler['gaps']} of {sampler['readings']} readings failed")
    roles = {rail: role for rail, role in chosen.source.rails.items() if rail in rails}
    trace = power.total(t_s, rails, roles, unit=reader.unit, wrap_j=reader.wrap_j, lag_s=chosen.lag_s)
    sensor = chosen.sensor()
    return trace, sensor if sensor.quantum_w else replace(sensor, quantum_w=_least_step(trace))


def _external(
    folder: Path, about: dict[str, Any], spans: dict[str, Span], reasons: list[str], notes: list[str]
) -> tuple[power.Trace, Sensor]:
    readings = Readings.from_json(read_json(folder / METER))
    if readings.problem:
        notes.append(f"the meter: {readings.problem}")
    t_s, watts = np.asarray(readings.t_s), np.asarray(readings.watts)
    error_s = readings.offset_error_s
    if readings.own_clock:
        loads = [(phase["start_s"], phase["end_s"]) for phase in about["load"]["phases"] if phase["name"] in MARKED]
        guess_s = about["load"]["phases"][0]["start_s"] - about["host_unix"]  # the file is here; a board may not know the year
        try:
            shift_s, error_s = find_offset(t_s, watts, _joined(loads), guess_s=guess_s)
            t_s = t_s + shift_s
            notes.append(f"the meter's clock is {guess_s - shift_s:+.2f} s ahead of this host's")
        except MeasurementError as error:
            reasons.append(str(error).replace("\n  ", ", "))
    lead_in_s = spans["lead_in"][1] - spans["lead_in"][0]
    limit_s = OFFSET_LIMIT * lead_in_s
    if error_s is not None and error_s > limit_s:
        reasons.append(f"the meter's clock is known to {1000 * error_s:.0f} ms only, {1000 * limit_s:.0f} ms are needed")
    counter = len(readings.joules) == len(readings.t_s) > 0
    order = np.unique(t_s, return_index=True)[1]  # meters may repeat or disorder their rows
    values = np.asarray(readings.joules) if counter else watts
    trace = power.total(t_s[order], {"meter": values[order]}, {"meter": "total"}, unit="J" if counter else "W")
    return trace, _sensor_of(trace)


def _joined(spans: list[Span]) -> list[Span]:
    """Stretches that touch become one."""
    joined = spans[:1]
    for start, end in spans[1:]:
        if start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _sensor_of(trace: power.Trace) -> Sensor:
    """A meter tells nothing of itself: the time between readings and between new values, and the least step, are seen."""
    if len(trace.t_s) < 3:
        return Sensor(1.0, 1.0)
    interval_s = float(np.median(np.diff(trace.t_s)))
    moved = trace.t_s[1:][np.diff(trace.values) != 0]
    often = len(moved) > max(2, SELDOM * len(trace.t_s))  # where the value hardly changes, its refresh cannot be seen nor matters
    refresh_s = float(np.median(np.diff(moved))) if often else interval_s
    return Sensor(min(max(refresh_s, interval_s), SLOWEST_REFRESH_S), interval_s, _least_step(trace))


def _least_step(trace: power.Trace) -> float | None:
    """Least change of the total from reading to reading, W: what the readings are rounded to at most."""
    steps = np.abs(np.diff(trace.values))
    return float(steps[steps > 1e-9].min()) if not trace.counter and (steps > 1e-9).any() else None


def result_of(
    repeats: Sequence[Repeat], covers: dict[str, Any], *, flags: Sequence[str] = (), latency_p50_ms: float | None = None
) -> EnergyResult:
    """The result of one engine: medians over its valid windows, or not measured."""
    windows = tuple({**one.window.to_json(), "notes": list(one.notes)} for one in repeats)
    valid = [one.window for one in repeats if one.window.valid]
    overhead = None
    latencies = np.concatenate([one.latency_ms for one in repeats]) if repeats else np.zeros(0)
    if latency_p50_ms and len(latencies):
        overhead = float(np.median(latencies)) / latency_p50_ms - 1
    noted = [*flags, *dict.fromkeys(note for one in repeats for note in one.notes)]
    if overhead is not None and overhead > OVERHEAD_LIMIT:
        noted.append(f"latency is {overhead:+.1%} while power is sampled: the sampler disturbs the load")
    common: dict[str, Any] = {**covers, "windows": windows, "latency_overhead": overhead, "flags": tuple(noted)}
    if not valid:
        detail = "; ".join(dict.fromkeys(reason for one in repeats for reason in one.window.reasons))
        return not_measured("invalid_window", detail or "no window was measured", **common)
    low = list(dict.fromkeys(reason for window in valid for reason in window.low_confidence))
    if len(valid) < ENOUGH_REPEATS:
        low.append(f"{len(valid)} valid windows, fewer than {ENOUGH_REPEATS}")
    numbers: dict[str, Any] = {}
    error = _sensors_error(valid, covers["sensor"])
    if error is None:
        common["flags"] = (*common["flags"], UNKNOWN_ERROR)
    for name in ("total", "marginal"):
        each = np.asarray([getattr(window, f"energy_{name}_mj") for window in valid])
        inside = np.sqrt(np.mean([getattr(window, f"uncertainty_{name}_mj") ** 2 for window in valid]))
        spread = 2 * 1.2533 * each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0  # k = 2, of a median
        numbers[f"energy_{name}_mj"] = float(np.median(each))
        numbers[f"uncertainty_{name}_mj"] = float(np.sqrt(inside**2 + spread**2 + (0.0 if error is None else error[name]) ** 2))
        numbers[f"range_{name}_mj"] = (float(each.min()), float(each.max()))
    for name in ("power_idle_w", "power_mean_w"):
        numbers[name] = float(np.median([getattr(window, name) for window in valid]))
    return EnergyResult("measured", **common, **numbers, low_confidence=tuple(low))


def _sensors_error(windows: Sequence[Window], sensor: Mapping[str, Any]) -> dict[str, float] | None:
    """What the largest error of the sensor makes of an inference's energy, expanded (k = 2), mJ; None where it is not known.

    Within its limits every error is taken as equally likely (ISO/IEC Guide 98-3, 4.3.7): limit / sqrt(3) is the standard
    uncertainty. It is the same in all windows, so it is not averaged; its constant part leaves the marginal energy alone.
    """
    percent, watts = sensor.get("error_percent"), sensor.get("error_w")
    if percent is None and watts is None:
        return None
    share, each_s = (percent or 0.0) / 100, [(window.end_s - window.start_s) / window.n for window in windows]
    total_mj = float(np.median([window.energy_total_mj for window in windows]))
    marginal_mj = float(np.median([window.energy_marginal_mj for window in windows]))
    limits = {
        "total": share * abs(total_mj) + 1000 * (watts or 0.0) * float(np.median(each_s)),
        "marginal": share * abs(marginal_mj),
    }
    return {name: 2 * limit / float(np.sqrt(3)) for name, limit in limits.items()}
