"""Offset of clocks: arithmetic by hand, bounds on made-up links, one real agent."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.device.clock_offset import Stamp, best_of, between, measure
from toolchain.device.remote import connect
from toolchain.errors import UsageError


def test_by_hand() -> None:
    stamps = [(100.0, 0.4, Stamp(monotonic_s=7.9, unix_s=105.9)), (101.0, 0.1, Stamp(monotonic_s=9.05, unix_s=106.05))]
    found = best_of(stamps)  # the second: middle 101.05, so the device is 5 s ahead
    assert found.unix_s == pytest.approx(5.0)
    assert found.monotonic_s == pytest.approx(9.05 - 101.05)
    assert (found.error_s, found.round_trip_s, found.stamps) == (0.05, 0.1, 2)
    assert found.host_unix(9.05) == pytest.approx(101.05)


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(1e-5, 0.5), st.floats(1e-5, 0.5)), min_size=1, max_size=30),
)
def test_the_true_offset_is_within_the_error(offset: float, legs: list[tuple[float, float]]) -> None:
    exchanges, host = [], 1000.0
    for there, back in legs:
        device = host + there + offset
        exchanges.append((host, there + back, Stamp(monotonic_s=device - 500, unix_s=device)))
        host += there + back + 0.01
    found = best_of(exchanges)
    assert abs(found.unix_s - offset) <= found.error_s + 1e-6
    assert abs(found.monotonic_s - (offset - 500)) <= found.error_s + 1e-6
    assert found.round_trip_s == min(there + back for there, back in legs)


def test_drift_between_two() -> None:
    first = best_of([(0.0, 0.02, Stamp(monotonic_s=1.01, unix_s=2.01))])
    second = best_of([(100.0, 0.02, Stamp(monotonic_s=101.02, unix_s=102.02))])  # 10 ms in 100 s
    middle = between(first, second, (first.at_unix + second.at_unix) / 2)
    assert middle.unix_s == pytest.approx(2.005)
    assert middle.drift_ppm == pytest.approx(100.0)
    with pytest.raises(UsageError):
        between(first, first, 0.0)


def test_this_machine() -> None:
    with connect("local") as device, device.session() as session:
        found = measure(session)
        with pytest.raises(UsageError):
            measure(session, 0)
    assert found.stamps == 20
    assert abs(found.unix_s) <= found.error_s + 0.001
    assert abs(found.host_unix(time.monotonic()) - time.time()) < 1.0
