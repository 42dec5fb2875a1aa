"""What makes a window of energy invalid, and how sure a valid one is."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.lab.sense import Ina3221
from tests.lab.waveform import Waveform, constant, load_between, random_load
from toolchain.measurement import energy
from toolchain.measurement.energy_window import Sensor, Window, window_of

U = 0.1
IDLE = ((0.0, 10.0), (25.0, 35.0))
LOAD, WINDOW = (10.0, 25.0), (12.0, 24.0)
ENDS = np.arange(10.05, 25.0, 0.05)
SENSOR = Sensor(U, U / 2, 0.04)


def busy(watts: Waveform | None = None, idle_w: float = 3.0) -> Waveform:
    return load_between(idle_w, watts or random_load(random.Random(3), U), LOAD[0], LOAD[1] - LOAD[0])


def judged(wave: Waveform, *, keep: Any = None, sensor: Ina3221 | None = None, change: Any = None, **more: Any) -> Window:
    """The window of a trace of `wave`: only readings `keep(t)`, each through `change(t, watts)`."""
    ina = sensor or Ina3221(U, 0.03, noise_a=0.02)
    times = [t for t in np.arange(0.0, 36.0, U / 2) if keep is None or keep(t)]
    watts = [ina.watts(wave, t) for t in times]
    if change is not None:
        watts = [change(t, value) for t, value in zip(times, watts, strict=True)]
    trace = energy.total(times, {"a": watts}, {"a": "total"}, lag_s=U)
    return window_of(trace, SENSOR, **{"idle": IDLE, "window": WINDOW, "ends_s": ENDS, **more})


def test_a_good_window() -> None:
    wave = busy()
    window = judged(wave)
    assert window.reasons == ()
    assert (window.start_s, window.end_s) == (12.1, 23.9)
    assert window.n == sum(12.1 < end <= 23.9 for end in ENDS)
    true_mj = 1000 * wave.between(12.1, 23.9) / window.n
    assert window.energy_total_mj == pytest.approx(true_mj, rel=0.01)
    assert window.energy_marginal_mj == pytest.approx(true_mj - 3000 * 11.8 / window.n, rel=0.02)
    assert window.power_idle_w == pytest.approx(3.0, rel=0.02)
    assert window.to_json()["valid"]


def test_the_truth_lies_within_the_uncertainty_about_as_often_as_it_says() -> None:
    covered = {"total": 0, "marginal": 0}
    for seed in range(60):
        wave = busy(random_load(random.Random(seed), U))
        window = judged(wave, sensor=Ina3221(U, random.Random(seed).random() * U, noise_a=0.02, seed=seed))
        a, b, per = window.start_s, window.end_s, window.n / 1000
        true = {"total": wave.between(a, b) / per, "marginal": (wave.between(a, b) - 3.0 * (b - a)) / per}
        for name in covered:
            covered[name] += abs(getattr(window, f"energy_{name}_mj") - true[name]) <= getattr(window, f"uncertainty_{name}_mj")
    assert min(covered.values()) >= 54  # k = 2: 57 are expected


def test_a_hole_is_invalid_and_not_a_smaller_energy() -> None:
    window = judged(busy(), keep=lambda t: not 15 < t < 20)
    assert any("no reading for" in reason for reason in window.reasons)
    assert any("cover" in reason for reason in window.reasons)
    assert window.to_json()["valid"] is False


def test_a_short_hole_is_invalid_too() -> None:
    window = judged(busy(), keep=lambda t: not 15 < t < 15.3)
    assert [reason.split(" for")[0] for reason in window.reasons] == ["no reading"]


def test_a_sensor_that_vanishes_gives_no_energy() -> None:
    window = judged(busy(), keep=lambda t: t < 18)
    assert window.energy_total_mj is None
    assert any("do not cover" in reason for reason in window.reasons)


@pytest.mark.parametrize("since", [5.0, 18.0])
def test_a_stuck_sensor_is_noticed(since: float) -> None:
    held: list[float] = []

    def change(t: float, watts: float) -> float:
        if t >= since:
            held.append(watts)
        return held[0] if held else watts

    window = judged(busy(), change=change)
    assert any("stuck" in reason for reason in window.reasons)


def test_an_idle_power_that_moved_is_invalid() -> None:
    window = judged(busy(), change=lambda t, watts: watts + (0.3 if t > 20 else 0.0))
    assert any("idle power moved" in reason for reason in window.reasons)


def test_reasons_from_elsewhere_count() -> None:
    window = judged(busy(), reasons=("the device throttled",))
    assert window.reasons == ("the device throttled",)
    assert window.energy_total_mj is not None


def test_few_values_are_low_confidence() -> None:
    window = judged(busy(constant(9.0)), sensor=Ina3221(U))
    assert window.reasons == ()
    assert "independent values" in window.low_confidence[0]


def test_no_inference_and_too_short_a_window() -> None:
    assert "no inference" in judged(busy(), ends_s=np.array([10.0])).reasons[0]
    assert judged(busy(), ends_s=np.array([10.0])).energy_total_mj is None
    assert "shorter" in judged(busy(), window=(12.0, 12.1)).reasons[0]


def test_a_counter_that_went_backwards_is_invalid() -> None:
    times = np.arange(0.0, 36.0, 0.1)
    joules = np.array([busy().energy(t) for t in times])
    joules[150:] -= 50
    trace = energy.total(times, {"a": joules}, {"a": "total"}, unit="J")
    window = window_of(trace, Sensor(0.001, 0.1), idle=IDLE, window=WINDOW, ends_s=ENDS)
    assert "backwards" in window.reasons[0]


def test_rounding_is_not_averaged_away_under_a_steady_load() -> None:
    steady = judged(busy(constant(9.0)), sensor=Ina3221(U))
    noisy = judged(busy(constant(9.0)), sensor=Ina3221(U, noise_a=0.05))
    assert steady.parts_j is not None
    assert noisy.parts_j is not None
    assert steady.parts_j["rounding"] == pytest.approx(0.04 / 12**0.5 * 11.8)
    assert noisy.parts_j["rounding"] < steady.parts_j["rounding"] / 5
