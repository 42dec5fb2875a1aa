"""Energy from readings, held against waveforms whose energy is known in closed form."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lab.sense import Counter, Ina3221
from tests.lab.waveform import Segment, Waveform, constant, load_between, random_load
from toolchain.errors import MeasurementError
from toolchain.measurement import energy

U = 0.43  # INA3221 on Xavier and Orin


def read(sensor: Ina3221, truth: Waveform, times: np.ndarray, *, lag_s: float = 0.0) -> energy.Trace:
    return energy.total(times, {"VDD_IN": [sensor.watts(truth, t) for t in times]}, {"VDD_IN": "total"}, lag_s=lag_s)


def polled(a: float, b: float, every: float, rng: random.Random | None = None) -> np.ndarray:
    jitter = [rng.uniform(0, 0.1 * every) if rng else 0.0 for _ in np.arange(a, b, every)]
    return np.arange(a, b, every) + jitter


@pytest.mark.parametrize("hz", [1, 10, 50])
@pytest.mark.parametrize("watts", [5.0, 7.777])
def test_constant_power_is_right_to_half_a_step_at_any_polling_rate(hz: int, watts: float) -> None:
    sensor = Ina3221(U)
    trace = read(sensor, constant(watts), polled(0, 70, 1 / hz))
    assert abs(energy.energy_j(trace, 3, 63) - 60 * watts) <= 60 * (sensor.step_w / 2 + 1e-9)


@pytest.mark.parametrize("phase", [0.0, 0.13, 0.4])
def test_a_step_inside_the_window_counts_whole_whatever_the_sensors_phase(phase: float) -> None:
    wave = load_between(5.0, constant(15.0), 30.0, 20.0)
    trace = read(Ina3221(U, phase), wave, polled(0, 70, U / 2))
    assert energy.energy_j(trace, 10, 65) == pytest.approx(wave.between(10, 65), abs=10 * U / 2)


@pytest.mark.parametrize("period", [U, U / 2, 0.01])
def test_a_square_as_fast_as_the_sensor_keeps_its_mean(period: float) -> None:
    wave = Waveform((Segment("square", 1000 * period, 2.0, 12.0, period, 0.3),))
    trace = read(Ina3221(U), wave, polled(0, 70, U / 2))
    assert energy.energy_j(trace, 5, 65) == pytest.approx(wave.between(5, 65), rel=0.01)


def test_a_sensor_that_does_not_average_shows_an_error_there() -> None:
    wave = Waveform((Segment("square", 1000 * U, 2.0, 12.0, U, 0.3),))
    trace = read(Ina3221(U, phase=0.1, point=True), wave, polled(0, 70, U / 2))
    assert abs(energy.energy_j(trace, 5, 65) / wave.between(5, 65) - 1) > 0.2


def test_a_short_burst_counts_once_and_its_peak_is_not_seen() -> None:
    wave = load_between(2.0, constant(20.0), 30.0, 0.1)
    trace = read(Ina3221(U), wave, polled(0, 70, 0.02), lag_s=U)
    assert energy.energy_j(trace, 20, 60) - 80.0 == pytest.approx(1.8, abs=0.02 * 40 + 0.4)
    assert energy.between(trace, 20, 60).max() < 7.0


def test_repeated_readings_are_no_new_values() -> None:
    wave = Waveform((Segment("ramp", 100.0, 2.0, 60.0),))
    trace = read(Ina3221(U), wave, polled(0, 60, 0.02))
    assert energy.changes(energy.between(trace, 0, 60)) == pytest.approx(60 / U, abs=2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), u=st.sampled_from([0.1, U]), poll=st.sampled_from([0.02, 0.1, 0.2]))
def test_the_error_stays_within_its_bound(seed: int, u: float, poll: float) -> None:
    """|E - true| <= 2 u dP + d TV + q W / 2 with the lag left in: dP the range of power, TV the register's steps, d the gap."""
    rng = random.Random(seed)
    wave = load_between(3.0, random_load(rng, u), 10.0, 12.0)
    sensor = Ina3221(u, rng.random() * u)
    times = polled(0, 35, poll, rng)
    trace = read(sensor, wave, times)
    a, b = 5.0, 30.0
    powers = [wave.power(t) for t in np.arange(a - 2 * u, b + 2 * u, u / 50)]
    steps = float(np.abs(np.diff(trace.values)).sum())
    bound = 2 * u * (max(powers) - min(powers)) + float(np.diff(times).max()) * steps + sensor.step_w * (b - a) / 2
    assert abs(energy.energy_j(trace, a, b) - wave.between(a, b)) <= bound


def test_one_percent_over_random_loads_at_the_real_sensors_speed() -> None:
    """Read twice a refresh, 60 s, the window wholly inside the load: no rest at its ends that would hide the lag."""
    errors = []
    for seed in range(60):
        rng = random.Random(seed)
        wave = load_between(rng.uniform(2, 5), random_load(rng, U), 5.0, 66.0 + rng.random())
        sensor = Ina3221(U, rng.random() * U, noise_a=0.02, seed=seed)
        trace = read(sensor, wave, polled(0, 75, U / 2, rng), lag_s=U)
        errors.append(energy.energy_j(trace, 10 + U, 70 - U) / wave.between(10 + U, 70 - U) - 1)
    assert max(map(abs, errors)) <= 0.01
    assert abs(float(np.mean(errors))) <= 0.001


def test_the_lag_is_a_refresh() -> None:
    """A window that begins in rest and ends in load: what is not taken off shows as u times the difference."""
    wave = load_between(2.0, constant(12.0), 10.0, 100.0)
    times = polled(0, 60, 0.01)
    plain = energy.energy_j(read(Ina3221(U), wave, times), 5, 40) - wave.between(5, 40)
    taken_off = energy.energy_j(read(Ina3221(U), wave, times, lag_s=U), 5, 40) - wave.between(5, 40)
    assert plain == pytest.approx(-10 * U, abs=0.6)
    assert taken_off == pytest.approx(0.0, abs=0.6)


def test_uneven_times_and_interpolated_edges() -> None:
    """A straight line is integrated exactly, wherever it is read."""
    times = np.array([0.0, 0.1, 0.5, 2.0, 2.1, 4.0])
    trace = energy.total(times, {"a": 3 + 2 * times}, {"a": "total"})
    assert energy.energy_j(trace, 0.3, 3.7) == pytest.approx(3 * 3.4 + (3.7**2 - 0.3**2))


def test_negative_readings_are_kept() -> None:
    trace = energy.total([0, 1, 2, 3], {"a": [-0.4, -0.4, 0.4, 0.4]}, {"a": "total"})
    assert energy.energy_j(trace, 0, 3) == pytest.approx(0.0)
    assert energy.energy_j(trace, 0, 1) == pytest.approx(-0.4)


def test_the_total_is_by_roles_and_a_missing_rail_is_a_gap() -> None:
    rails = {"VDD_IN": [5.0, 5.0, 5.0], "CPU": [1.0, math.nan, 1.0], "SOC": [2.0, 2.0, 2.0]}
    whole = energy.total([0, 1, 2], rails, {"VDD_IN": "total", "CPU": "info", "SOC": "info"})
    assert whole.values.tolist() == [5.0, 5.0, 5.0]
    summed = energy.total([0, 1, 2], rails, {"VDD_IN": "info", "CPU": "+", "SOC": "+"})
    assert (summed.t_s.tolist(), summed.values.tolist()) == ([0, 2], [3.0, 3.0])


@pytest.mark.parametrize(
    "roles", [{"a": "info"}, {"a": "total", "b": "total"}, {"a": "total", "b": "+"}, {"c": "total"}, {}], ids=str
)
def test_no_total_is_guessed(roles: dict[str, str]) -> None:
    with pytest.raises(MeasurementError):
        energy.total([0, 1], {"a": [1, 1], "b": [1, 1]}, roles)


def test_time_that_runs_backwards_is_refused() -> None:
    with pytest.raises(MeasurementError, match="order of time"):
        energy.total([0, 2, 1], {"a": [1, 1, 1]}, {"a": "total"})


def test_a_window_beyond_the_readings_is_refused() -> None:
    trace = energy.total([0, 1, 2], {"a": [1, 1, 1]}, {"a": "total"})
    for a, b in ((-1, 1), (1, 3), (1, 1)):
        with pytest.raises(MeasurementError, match="do not cover"):
            energy.energy_j(trace, a, b)
    with pytest.raises(MeasurementError, match="do not cover"):
        energy.energy_j(energy.total([], {"a": []}, {"a": "total"}), 0, 1)


def counted(wave: Waveform, times: np.ndarray, counter: Counter) -> energy.Trace:
    joules = [counter.micro_joules(wave, t) / 1e6 for t in times]
    return energy.total(times, {"package-0": joules}, {"package-0": "total"}, unit="J", wrap_j=(counter.range_uj + 1) / 1e6)


def test_a_counter_is_its_difference() -> None:
    wave = Waveform((Segment("square", 7.0, 5.0, 25.0, 0.03, 0.4),))
    trace = counted(wave, polled(0, 20, 0.1), Counter())
    assert not trace.problem
    assert energy.energy_j(trace, 2, 18) == pytest.approx(wave.between(2, 18), rel=1e-3)


def test_wraps_of_a_counter_are_followed() -> None:
    counter = Counter(range_uj=30_000_000, start_uj=29_000_000)
    trace = counted(constant(10.0), polled(0, 20, 0.1), counter)
    assert not trace.problem
    assert energy.energy_j(trace, 0.5, 19.5) == pytest.approx(190.0, rel=1e-3)


def test_two_wraps_between_two_readings_are_noticed() -> None:
    times = np.concatenate([polled(0, 5, 0.1), polled(12, 20, 0.1)])
    assert "twice" in counted(constant(10.0), times, Counter(range_uj=30_000_000)).problem


def test_a_counter_without_a_range_must_not_fall() -> None:
    trace = energy.total([0, 1, 2], {"a": [5.0, 6.0, 1.0]}, {"a": "total"}, unit="J")
    assert "backwards" in trace.problem


def test_gaps_and_coverage() -> None:
    trace = energy.total([0, 1, 2, 6, 7, 8], {"a": np.ones(6)}, {"a": "total"})
    assert energy.largest_gap(trace, 0.5, 7.5) == 4
    assert energy.coverage(trace, 0, 8, longest_s=2.5) == pytest.approx(0.5)
    assert energy.largest_gap(trace, 20, 30) == 10
