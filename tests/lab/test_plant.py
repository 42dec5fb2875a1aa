"""The plant itself: its truth, its sensors, and the files it writes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.lab.plant import Board, start_plant
from tests.lab.sense import Counter, Ina3221
from tests.lab.waveform import Segment, Waveform, constant, load_between, random_load


@pytest.mark.parametrize("seed", range(8))
def test_energy_in_closed_form_is_the_integral_of_the_power(seed: int) -> None:
    rng = random.Random(seed)
    wave = random_load(rng, 0.4)
    a, b = sorted((rng.uniform(-3, 40), rng.uniform(-3, 40)))
    middles = np.linspace(a, b, 200_001)[:-1] + (b - a) / 400_000
    mean = float(np.mean([wave.power(t) for t in middles]))
    assert wave.between(a, b) == pytest.approx(mean * (b - a), rel=1e-3)
    assert wave.between(a, b) == pytest.approx(wave.between(a, 0.3) + wave.between(0.3, b))


def test_a_load_between_rests() -> None:
    wave = load_between(2.0, Waveform((Segment("ramp", 4.0, 0.0, 8.0),)), 10.0, 6.0)
    assert [wave.power(t) for t in (5.0, 12.0, 15.0, 20.0)] == [2.0, 4.0, 2.0, 2.0]
    assert wave.between(0, 30) == pytest.approx(2 * 10 + 16 + 4 + 2 * 14)


@pytest.mark.parametrize("phase", [0.0, 0.07])
def test_the_sensor_averages_then_holds(phase: float) -> None:
    wave, sensor = load_between(2.0, constant(12.0), 1.0, 0.05), Ina3221(0.1, phase)
    held = [sensor.watts(wave, t) for t in np.arange(0.5, 2.0, 0.001)]
    assert len(set(held)) <= 3
    assert sum(held) * 0.001 == pytest.approx(wave.between(0.4, 1.9), rel=0.03)
    edges = [t for t in np.arange(0.5, 2.0, 0.001) if sensor.period(t) != sensor.period(t - 0.001)]
    assert np.diff(edges) == pytest.approx(0.1, abs=0.002)


def test_the_sensor_rounds_and_may_go_below_zero() -> None:
    assert Ina3221(0.1).step_w == pytest.approx(0.04)
    assert Ina3221(0.1, volt=19.6, shunt_ohm=0.002).step_w == pytest.approx(0.392)
    assert Ina3221(0.1).registers(constant(5.01), 3) == (5000, 1000)
    assert Ina3221(0.1, offset_a=-0.3).watts(constant(1.0), 5.0) == pytest.approx(-0.52)


def test_a_counter_starts_again() -> None:
    counter = Counter(range_uj=9_999_999)
    assert [counter.micro_joules(constant(4.0), t) for t in (1.0, 2.0, 3.0)] == [4_000_000, 8_000_000, 2_000_000]


def read(path: Path) -> int:
    return int(path.read_text())


def test_files_follow_the_truth_in_real_time(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", constant(5.0), idle_w=3.0, sensor=Ina3221(0.05), rails={"VDD_IN": 1.0, "VDD_SOC": 0.51})
    chip = board.root / "sys/class/hwmon/hwmon1"
    with start_plant(tmp_path / "plant", {"board": board}) as plant:
        assert (chip / "in7_label").read_text().strip() == "sum of shunt voltages"
        assert (read(chip / "in1_input"), read(chip / "curr1_input"), read(chip / "curr2_input")) == (5000, 600, 304)
        plant.follow("board", "lead_in")
        time.sleep(0.6)
        assert read(chip / "curr1_input") == 1600
        plant.follow("board", "idle_after")
        time.sleep(0.6)
        assert read(chip / "curr1_input") == 600
        ((on, off),) = plant.truth("board").switched
        assert off is not None
        assert plant.truth("board").marginal(off + 9) == pytest.approx(5.0 * (off - on))
        assert plant.truth("board").between(on - 1, off + 1) == pytest.approx(8.0 * (off - on) + 6.0)
        plant.change("board", fault="absent")
        time.sleep(0.2)
        assert not chip.exists()
        plant.change("board", fault="renumber")
        time.sleep(0.2)
        assert read(chip.with_name("hwmon7") / "curr1_input") == 600


@pytest.mark.parametrize("front", ["iio", "pmic", "rapl"])
def test_other_fronts_of_the_same_truth(tmp_path: Path, front: str) -> None:
    rails = {"package-0": 1.0} if front == "rapl" else {"VDD_CORE": 0.6, "DDR_VDDQ": 0.4}
    board = Board(tmp_path / "board", constant(5.0), idle_w=3.0, front=front, rails=rails, sensor=Ina3221(0.05))
    with start_plant(tmp_path / "plant", {"board": board}):
        if front == "iio":
            folder = next(board.root.rglob("iio:device0"))
            assert [read(folder / f"in_power{n}_input") for n in (0, 1)] == [1800, 1200]
        elif front == "pmic":
            text = (board.root / "edge-fake/pmic").read_text()
            assert "VDD_CORE_A current(0)=0.36000000A" in text
            assert "EXT5V_V volt" in text
        else:
            counter = board.root / "sys/class/powercap/intel-rapl:0/energy_uj"
            first, at = read(counter), time.monotonic()
            time.sleep(0.3)
            assert read(counter) - first == pytest.approx(3e6 * (time.monotonic() - at), rel=0.5)
