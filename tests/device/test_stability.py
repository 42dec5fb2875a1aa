"""What moved between two states."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.device.messages import check
from toolchain.device.stability import moved, notes, seconds_between, throttled_now
from toolchain.device.state_messages import State

QUIET: dict[str, Any] = {
    "time_unix": 1000.0, "monotonic_s": 10.0, "boot_id": "a", "power_mode": {"name": "MAXN", "id": 0, "source": "nvpmodel -q"},
    "governor": "schedutil", "turbo": None, "clocks": None, "temperature_c": {"tj": 45.0}, "throttle": {}, "cooling": None,
    "fans": None, "supply_ma": None, "on_battery": None, "pcie_links": None, "load_average": [0.0, 0.0, 0.0],
    "memory_free_bytes": 1, "swap_free_bytes": 0, "swap_total_bytes": 0, "disk_free_bytes": 1, "busy": [], "disturbing": [],
    "agents": 0, "accelerator_users": [], "unreadable": {},
}  # fmt: skip
LATER = {"time_unix": 1060.0, "monotonic_s": 70.0}


def state(**changes: Any) -> State:
    return check(State, {**QUIET, **changes})


def later(**changes: Any) -> State:
    return state(**{**LATER, **changes})


def sign(kind: str, value: int, *, fatal: bool = True) -> dict[str, Any]:
    return {"kind": kind, "value": value, "fatal": fatal, "source": "/sys/x"}


def clock(low: float | None, high: float | None, measured: float | None = None) -> dict[str, Any]:
    return {"min_mhz": low, "max_mhz": high, "cur_mhz": high, "measured_mhz": measured, "governor": None, "source": "/sys/y"}


OC3 = sign("count", 10, fatal=False), sign("count", 40, fatal=False)


def test_nothing_moved() -> None:
    assert moved(state(), later()) == []
    assert notes(state(), later()) == []
    assert seconds_between(state(), later()) == 60.0


def test_reboot_is_the_only_reason_then() -> None:
    assert moved(state(), later(boot_id="b", governor="ondemand")) == ["the device rebooted"]


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ({"throttle": {"oc1": sign("count", 3)}}, {"throttle": {"oc1": sign("count", 4)}}, "oc1 went from 3 to 4"),
        ({"throttle": {"oc1": sign("count", 4)}}, {"throttle": {"oc1": sign("count", 0)}}, "oc1 went from 4 to 0"),
        ({}, {"throttle": {"throttled": sign("live", 1)}}, "throttled (after"),
        ({"throttle": {"hot": sign("live", 1)}}, {"throttle": {"hot": sign("live", 0)}}, "hot (before"),
        ({}, {"power_mode": {"name": "15W", "id": 0, "source": "q"}}, "from MAXN to 15W"),
        ({}, {"governor": "performance"}, "schedutil to performance"),
        ({"turbo": True}, {"turbo": False}, "turbo was switched off"),
        ({"clocks": {"cpu": clock(1728, 1728)}}, {"clocks": {"cpu": clock(729, 1728)}}, "1728 to 1728 MHz, then 729"),
        ({"clocks": {"cpu": clock(1728, 1728)}}, {"clocks": {"cpu": clock(1510, 1510)}}, "pinned at 1728 MHz, then at 1510"),
        ({"clocks": {"cpu": clock(1728, 1728)}}, {"clocks": {"cpu": clock(1728, 1728, 862)}}, "862 MHz measured, pinned at 1728"),
        ({}, {"governor": None, "unreadable": {"governor": "gone"}}, "governor could not be read after the measurement: gone"),
        ({"throttle": {"oc1": sign("count", 1)}}, {}, "no longer readable: oc1"),
    ],
)  # fmt: skip
def test_reasons(before: dict[str, Any], after: dict[str, Any], word: str) -> None:
    (reason,) = moved(state(**before), later(**after))
    assert word in reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"throttle": {"oc3": sign("count", 3, fatal=False)}}, {"throttle": {"oc3": sign("count", 90, fatal=False)}}),
        ({}, {"throttle": {"oc1": sign("count", 7)}}),  # not known before: nothing can be said
        (
            {"throttle": {"under-voltage since boot": sign("count", 1)}},
            {"throttle": {"under-voltage since boot": sign("count", 1)}},
        ),
        ({}, {"throttle": {"alarm": sign("live", 1, fatal=False)}}),
        ({"clocks": {"cpu": clock(729.6, 1728)}}, {"clocks": {"cpu": clock(729.6, 1510)}}),  # never pinned
        ({"clocks": {"cpu": clock(1728, 1728)}}, {"clocks": {"cpu": clock(1728, 1728, 1700)}}),
        ({"clocks": {"cpu": clock(None, None)}}, {"clocks": {"cpu": clock(None, None)}}),
        ({"governor": None}, {"governor": "ondemand"}),
        ({"boot_id": None}, {"boot_id": "b"}),
    ],
)
def test_no_reasons(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert moved(state(**before), later(**after)) == []


def test_throttle_at_the_start() -> None:
    assert throttled_now(state(throttle={"cpu-throttle-alert": sign("live", 2)})) == ["the device throttles: cpu-throttle-alert"]
    assert throttled_now(state(throttle={"oc1": sign("count", 9), "alarm": sign("live", 1, fatal=False)})) == []


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ({"throttle": {"oc3": OC3[0]}}, {"throttle": {"oc3": OC3[1]}}, "oc3 rose by 30, 0.5 a second"),
        ({}, {"throttle": {"curr1_crit_alarm": sign("live", 1, fatal=False)}}, "curr1_crit_alarm is set"),
        ({}, {"temperature_c": {"tj": 61.5}}, "tj rose by 16.5 degrees to 61.5 C"),
        ({"busy": [{"pid": 7, "name": "cc1", "cpu_percent": 98.7}]}, {}, "cc1 (process 7) took 99 % of a core before"),
        ({}, {"disturbing": ["jtop"]}, "running beside: jtop"),
        ({}, {"accelerator_users": [{"pid": 1, "name": "x", "device": "/dev/hailo0"}]}, "x (/dev/hailo0)"),
    ],
)  # fmt: skip
def test_notes(before: dict[str, Any], after: dict[str, Any], word: str) -> None:
    (note,) = notes(state(**before), later(**after))
    assert word in note


@pytest.mark.parametrize(
    "after", [{"temperature_c": {"tj": 49.0}}, {"temperature_c": None}, {"busy": [{"pid": 7, "name": "sh", "cpu_percent": 3.0}]}]
)
def test_small_things_are_not_noted(after: dict[str, Any]) -> None:
    assert notes(state(), later(**after)) == []


@given(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.sampled_from(["live", "count"]))
def test_a_sign_is_a_reason_or_a_note_never_both(first: int, second: int, fatal: bool, kind: str) -> None:
    pair = [{"throttle": {"x": sign(kind, value, fatal=fatal)}} for value in (first, second)]
    found = moved(state(**pair[0]), later(**pair[1])), notes(state(**pair[0]), later(**pair[1]))
    assert not (found[0] and found[1])
    if kind == "count":
        assert bool(found[0]) == (fatal and first != second)
    else:
        assert len(found[0]) == (bool(first) + bool(second) if fatal else 0)
