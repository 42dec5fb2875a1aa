"""Did the machine hold still? Compares its state before and after a measurement.

`moved` gives what makes a measurement invalid, `notes` what to know when reading it; two States in, plain words out.
Read the state after at least 2 s behind the measurement's end, since over-current counters refresh only so often (OC_REFRESH_S).
"""

from __future__ import annotations

from collections.abc import Iterator

from toolchain.device.state_messages import Clock, State, Throttle

OC_REFRESH_S = 2.0
PIN_MARGIN = 0.05  # a clock measured this far below its pin was throttled; the dips seen go to half
RISE_NOTED_C = 5.0
BUSY_NOTED = 20.0  # percent of one core


def throttled_now(state: State) -> list[str]:
    """Signs of throttling at this moment: a measurement must not start."""
    return [
        f"the device throttles: {name}" for name, sign in _signs(state) if sign.kind == "live" and sign.fatal and sign.value > 0
    ]


def moved(before: State, after: State) -> list[str]:
    """Why a measurement between these two must not be used; empty when the machine held still.

    Reasons: rebooted, throttled (a live sign at either end, a counter that grew), power mode, governor or turbo changed, a pin
    lost, a clock measured below its pin, or one of these could be read before and not after.
    """
    if before.boot_id is not None and after.boot_id is not None and before.boot_id != after.boot_id:
        return ["the device rebooted"]
    return [*_throttle(before, after), *_settings(before, after), *_pins(before, after), *_missing(before, after)]


def notes(before: State, after: State) -> list[str]:
    """What to know about a measurement between these two: growth of counters that are not fatal, heat, other load."""
    return [*_harmless(before, after), *_heat(before, after), *_load(before, after)]


def seconds_between(before: State, after: State) -> float | None:
    """Time between two states of one boot, s."""
    if before.monotonic_s is None or after.monotonic_s is None or after.monotonic_s <= before.monotonic_s:
        return None
    return after.monotonic_s - before.monotonic_s


def _signs(state: State) -> Iterator[tuple[str, Throttle]]:
    yield from (state.throttle or {}).items()


def _throttle(before: State, after: State) -> Iterator[str]:
    for when, state in (("before", before), ("after", after)):
        yield from (f"{reason} ({when} the measurement)" for reason in throttled_now(state))
    then = before.throttle or {}
    for name, sign in _signs(after):
        if sign.fatal and sign.kind == "count" and name in then and sign.value != then[name].value:
            yield f"the device throttled: {name} went from {then[name].value} to {sign.value}"


def _settings(before: State, after: State) -> Iterator[str]:
    if before.power_mode and after.power_mode and before.power_mode.name != after.power_mode.name:
        yield f"the power mode changed from {before.power_mode.name} to {after.power_mode.name}"
    if before.governor and after.governor and before.governor != after.governor:
        yield f"the governor changed from {before.governor} to {after.governor}"
    if before.turbo is not None and after.turbo is not None and before.turbo != after.turbo:
        yield f"turbo was switched {'on' if after.turbo else 'off'}"


def _pins(before: State, after: State) -> Iterator[str]:
    for name, then in (before.clocks or {}).items():
        now = (after.clocks or {}).get(name)
        if not then.pinned or now is None:
            continue
        if not now.pinned:
            yield f"the clock of {name} lost its pin: {_limits(then)}, then {_limits(now)}"
        elif now.max_mhz != then.max_mhz:
            yield f"the clock of {name} was pinned at {then.max_mhz:g} MHz, then at {now.max_mhz:g} MHz"
        elif now.measured_mhz is not None and now.min_mhz is not None and now.measured_mhz < (1 - PIN_MARGIN) * now.min_mhz:
            yield f"the clock of {name} was throttled: {now.measured_mhz:g} MHz measured, pinned at {now.min_mhz:g} MHz"


def _limits(clock: Clock) -> str:
    return f"{clock.min_mhz:g} to {clock.max_mhz:g} MHz" if clock.min_mhz is not None and clock.max_mhz is not None else "unknown"


def _harmless(before: State, after: State) -> Iterator[str]:
    then, seconds = before.throttle or {}, seconds_between(before, after)
    for name, sign in _signs(after):
        grown = sign.value - then[name].value if name in then else 0
        if sign.fatal or (sign.kind == "live" and not sign.value) or (sign.kind == "count" and grown <= 0):
            continue
        rate = f", {grown / seconds:.2g} a second" if seconds and sign.kind == "count" else ""
        yield f"{name} rose by {grown}{rate}" if sign.kind == "count" else f"{name} is set"


def _heat(before: State, after: State) -> Iterator[str]:
    both = before.temperature_c or {}, after.temperature_c or {}
    rises = sorted(((both[1][zone] - both[0][zone], zone) for zone in both[0] if zone in both[1]), reverse=True)
    if rises and rises[0][0] >= RISE_NOTED_C:
        rise, zone = rises[0]
        yield f"{zone} rose by {rise:.1f} degrees to {both[1][zone]:.1f} C"


def _load(before: State, after: State) -> Iterator[str]:
    for when, state in (("before", before), ("after", after)):
        for one in state.busy:
            if one.cpu_percent >= BUSY_NOTED:
                yield f"{one.name} (process {one.pid}) took {one.cpu_percent:.0f} % of a core {when} the measurement"
    disturbing = sorted({*before.disturbing, *after.disturbing})
    if disturbing:
        yield f"running beside: {', '.join(disturbing)}"
    users = sorted({f"{one.name} ({one.device})" for state in (before, after) for one in state.accelerator_users or []})
    if users:
        yield f"others use the accelerator: {', '.join(users)}"


def _missing(before: State, after: State) -> Iterator[str]:
    """What could be read before and not after: whether it moved cannot be told."""
    for field in ("boot_id", "power_mode", "governor", "clocks", "throttle"):
        if getattr(before, field) is not None and getattr(after, field) is None:
            why = after.unreadable.get(field, "no reason given")
            yield f"{field.replace('_', ' ')} could not be read after the measurement: {why}"
    gone = sorted(set(before.throttle or {}) - set(after.throttle or {})) if after.throttle is not None else []
    if gone:
        yield f"no longer readable: {', '.join(gone)}"
