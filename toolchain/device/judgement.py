"""Whether a benchmark may be believed, and what to know when reading it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.device import stability
from toolchain.device.messages import check
from toolchain.device.pace import Pace
from toolchain.device.samples import Samples
from toolchain.device.state_messages import State
from toolchain.measurement.stats import CONTROL_MARGIN, Ratio, Summary, control_holds

CV_LIMIT = 0.025  # trtexec warns above it
DRIFT_LIMIT = 0.02


def flags_of(latency: Summary, samples: Samples, warmup: Mapping[str, Any], threads: int, cores: int | None) -> tuple[str, ...]:
    """Plain words for what the statistics show about the machine."""
    flags = []
    if cores is not None and threads > cores:
        flags.append(f"{threads} threads on {cores} cores: they wait for each other")
    if warmup["stopped"] == "cap":
        change = "" if warmup["change"] is None else f", changing by {warmup['change']:+.1%}"
        flags.append(f"the warm-up was given up after {warmup['seconds']:.0f} s: the latency did not stand still{change}")
    if latency.cv is not None and latency.cv > CV_LIMIT:
        flags.append(f"latency varies by {latency.cv:.1%} (sd / mean): clocks not locked, or other work ran")
    if latency.drift is not None and abs(latency.drift) > DRIFT_LIMIT:
        flags.append(f"latency drifted by {latency.drift:+.1%} from the first to the last third")
    if latency.dependence:
        why = f"neighbouring samples are correlated ({latency.lag1:.2f})"
        if latency.dependence == "passes":
            why = "the passes differ by more than chance"
        flags.append(f"{why}: {'the intervals are wider for it' if latency.interval == 'blocks' else 'no intervals'}")
    if latency.slow_count:
        flags.append(f"{latency.slow_count} of {latency.n} samples above twice the median, the slowest {latency.max:.3g} ms")
    if cut := sum(entry["stopped"] != "enough" for entry in samples.rounds):
        flags.append(
            f"{cut} of {len(samples.rounds)} passes ended before they had all that was asked: a very slow or very fast engine"
        )
    return tuple(flags)


def noise(control: Ratio | None) -> list[str]:
    """Why the machine must not be compared on, from an engine timed against itself."""
    if control is None:
        return []
    if control.low is None or control.high is None:
        return [f"the control could not be judged: {control.reason}"]
    if control_holds(control.low, control.high):
        return []
    return [
        f"the same engine twice differs: ratio {control.value:.3f} ({control.low:.3f} to {control.high:.3f}) is not within "
        f"{CONTROL_MARGIN:.0%} of 1; the machine is too noisy or too busy to compare on"
    ]


def drift_in_report(pace: Pace, latencies: Mapping[str, Summary]) -> list[str]:
    """A figure to quote must stand still."""
    if pace.name != "report":
        return []
    return [
        f"{label} drifted by {latency.drift:+.1%} during a report, more than {DRIFT_LIMIT:.0%}"
        for label, latency in latencies.items()
        if latency.drift is not None and abs(latency.drift) > DRIFT_LIMIT
    ]


def _states(session: Mapping[str, Any]) -> Iterator[State]:
    between = (entry["state"] for entry in session["states"])
    for state in (session["state_before"], *between, session["state_after"]):
        if state is not None:
            yield check(State, state)


def moved(sessions: list[dict[str, Any]]) -> list[str]:
    """How the device's state moved during the samples; each kind of reason once.

    A session that lost its link ends with the last look between its rounds: nothing was kept after it.
    """
    found: dict[str, str] = {}
    for session, following in zip(sessions, [*sessions[1:], None], strict=True):
        before, *later = _states(session)
        for number, state in enumerate(reversed(later)):  # the whole way first: its numbers are the largest
            for reason in stability.moved(before, state):
                last = number == 0 and session["state_after"] is not None
                found.setdefault(_kind(reason), reason if last else reason.replace("after the meas", "during the meas"))
        if following is not None:
            for reason in stability.moved(_settings_of(before), _settings_of(next(_states(following)))):
                found.setdefault(_kind(reason), f"{reason}, between two sessions of this benchmark")
    reasons = list(found.values())
    return reasons if sessions[-1]["state_after"] else [*reasons, "no state of the device after the benchmark"]


def _kind(reason: str) -> str:
    return re.sub(r"[-+.\d]+|\(\w+ the measurement\)", "", reason)


def _settings_of(state: State) -> State:
    """Without what another boot counts anew."""
    return state.model_copy(update={"boot_id": None, "throttle": None})


def notes(sessions: list[dict[str, Any]]) -> tuple[str, ...]:
    """What is no reason against the numbers, but to be known."""
    found: dict[str, None] = {}
    for session in sessions:
        found.update(dict.fromkeys(f"not the device named: {wrong}" for wrong in session["mismatches"]))
        if emulated := session["device"].get("emulated"):
            found[f"EMULATED, no timing or energy is a board's: {emulated}"] = None
        if flag := session["cool_down"].get("flag"):
            found[flag] = None
        before, *later = _states(session)
        found.update(dict.fromkeys(stability.notes(before, later[-1]) if later else ()))
    return tuple(found)
