"""A meter's clock found by bursts of load."""

from __future__ import annotations

import random

import numpy as np
import pytest

from toolchain.errors import MeasurementError
from toolchain.measurement.energy_marker import find_offset

BURSTS = (3.0, 3.35, 3.7)


def loads(begin: float = 1000.0) -> list[tuple[float, float]]:
    """Three bursts, rest, and the load itself."""
    spans, t = [], begin
    for seconds in BURSTS:
        spans.append((t + seconds, t + 2 * seconds))
        t += 2 * seconds
    return [*spans, (t + 30, t + 30 + 71)]


def metered(offset: float, every: float, noise: float, seed: int, *, step: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """What a meter logs whose clock is `offset` behind the device's: 3 W, 9 W under load."""
    rng = random.Random(seed)
    times = np.arange(990.0 + rng.random() * every, 1180.0, every)
    watts = [3.0 + 6.0 * any(a <= t < b for a, b in loads()) + rng.gauss(0, noise) for t in times]
    return times - offset, np.round(np.asarray(watts) / step) * step


@pytest.mark.parametrize("offset", [3.0, -17.3, 0.02])
@pytest.mark.parametrize("every", [0.1, 0.5, 1.0])
def test_the_offset_is_found_within_what_it_claims(offset: float, every: float) -> None:
    for seed in range(4):
        found, error = find_offset(*metered(offset, every, 0.1, seed), loads())
        assert abs(found - offset) <= error + 1e-6
        assert error <= 0.26 * max(every, 0.1) + 0.02


def test_bursts_of_unequal_length_place_a_slow_meter_within_five_percent_of_the_lead_in() -> None:
    assert all(find_offset(*metered(3.0, 1.0, 0.1, seed), loads())[1] <= 0.25 for seed in range(10))


def test_an_offset_beyond_the_search_is_refused_not_guessed() -> None:
    with pytest.raises(MeasurementError, match="do not show the load"):
        find_offset(*metered(500.0, 1.0, 0.1, 0), loads())
    found, _ = find_offset(*metered(500.0, 1.0, 0.1, 0), loads(), guess_s=490.0)
    assert found == pytest.approx(500.0, abs=0.3)


@pytest.mark.parametrize("watts", [np.full(200, 5.0), np.random.RandomState(0).normal(5, 1, 200), np.full(200, np.nan)])
def test_a_meter_of_something_else_is_refused(watts: np.ndarray) -> None:
    with pytest.raises(MeasurementError, match="do not show the load"):
        find_offset(np.arange(980.0, 1180.0), watts, loads())


def test_gaps_do_not_matter_much() -> None:
    times, watts = metered(3.0, 0.5, 0.1, 1)
    watts[::5] = np.nan
    assert find_offset(times, watts, loads())[0] == pytest.approx(3.0, abs=0.2)
