"""Energy on boards that the plant plays, some at once: every kind of sensor, and what can go wrong with one in mid-window."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import tinynet
from tests.device.plant_runs import compare, run, short, target_for
from tests.lab.clock import YEAR_S, python_with_clock
from tests.lab.plant import Board, Plant, start_plant
from tests.lab.sense import Counter, Ina3221
from tests.lab.waveform import Segment, Waveform
from toolchain.device.energy_request import EnergyRequest
from toolchain.measurement.energy_result import EnergyResult

U = 0.2
AT_ONCE = 5  # boards; more, and two slow cores let the plant come late
LOAD = Waveform((Segment("square", 10.0, 4.0, 12.0, 0.7, 0.5), Segment("ramp", 1.0, 4.0, 9.0)))
REQUEST = EnergyRequest(repeats=1, rate_hz=5.0, phases=short(idle_s=2.5, lead_in_s=0.8, window_s=4.0, updates=18))
THROTTLE = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"


@dataclass(frozen=True)
class Scene:
    """A board, what happens to it a while after a phase has begun, and how far its clock is ahead, set again and again."""

    board: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, str] | None = None
    during: str = "window"
    change: Callable[[Plant, str], None] | None = None
    ahead_s: tuple[float, ...] = ()


def fault(name: str) -> Callable[[Plant, str], None]:
    return lambda plant, board: plant.change(board, fault=name)


def vanish_and_return(plant: Plant, board: str) -> None:
    plant.change(board, fault="absent")
    time.sleep(0.15)
    plant.change(board, fault="renumber")


def throttle(plant: Plant, board: str) -> None:
    (plant.boards[board].root / THROTTLE).write_text("5\n")


RAILS = {"VDD_IN": 1.0, "VDD_CPU_GPU_CV": 0.4, "VDD_SOC": 0.3}
SCENES = {
    "hwmon": Scene({"rails": RAILS}, {"VDD_IN": "total", "VDD_CPU_GPU_CV": "info", "VDD_SOC": "info"}),
    "summed": Scene({"rails": {"GPU": 0.6, "CPU": 0.4, "DDR": 0.3}}, {"GPU": "+", "CPU": "+", "DDR": "info"}),
    "iio": Scene({"front": "iio", "rails": {"POM_5V_IN": 1.0}}),
    "pmic": Scene({"front": "pmic", "rails": {"VDD_CORE": 0.7, "DDR_VDD2": 0.3}}),
    "rapl": Scene({"front": "rapl", "rails": {"package-0": 1.0}, "counter": Counter(range_uj=25_000_000)}),
    "negative": Scene({"sensor": Ina3221(U, offset_a=-0.7)}),
    "renumbered": Scene(change=vanish_and_return),
    "absent": Scene(change=fault("absent")),
    "stuck": Scene(change=fault("stuck")),
    "interval": Scene(change=lambda plant, board: plant.change(board, sensor=Ina3221(U / 2))),
    "idle": Scene(change=lambda plant, board: plant.change(board, idle_step=(time.monotonic(), 0.3))),
    "throttled": Scene(change=throttle),
    "clock": Scene(ahead_s=(0.0, YEAR_S, -YEAR_S)),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[EnergyResult, Board]]:
    """Every scene's result, and what the board really drew."""
    folder = tmp_path_factory.mktemp("plant")
    engine = tinynet.save_detector(folder / "one.onnx")
    boards = {}
    for name, scene in SCENES.items():
        boards[name] = Board(folder / name, LOAD, **{"sensor": Ina3221(U, 0.05), "rails": {"VDD_IN": 1.0}, **scene.board})
        counter = folder / name / THROTTLE
        counter.parent.mkdir(parents=True)
        counter.write_text("4\n")
    with start_plant(folder / "run", boards) as plant:

        def one(name: str) -> tuple[EnergyResult, Board]:
            scene = SCENES[name]

            def follow(phase: str) -> None:
                if phase == scene.during and scene.change is not None:
                    time.sleep(1.0)
                    scene.change(plant, name)

            target = target_for(boards[name], scene.roles)
            python = python_with_clock(folder / f"clock-{name}", *scene.ahead_s) if scene.ahead_s else sys.executable
            result = run(plant, name, {"one": engine}, folder / f"out-{name}", request=REQUEST, target=target, on_phase=follow,
                         python=python)  # fmt: skip
            return result["one"], plant.truth(name)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(SCENES, pool.map(one, SCENES), strict=True))


Played = dict[str, tuple[EnergyResult, Board]]


@pytest.mark.parametrize("name", ["hwmon", "summed", "iio", "pmic", "rapl", "clock"])
def test_every_kind_of_sensor_gives_the_true_energy(played: Played, name: str) -> None:
    result, board = played[name]
    (window,) = result.windows
    error = compare(board, 0, window)
    assert abs(error.total) < 0.05  # 20 refreshes are few, and this machine may be busy; the exact test is the truth's
    assert not window["reasons"]
    assert result.valid
    roles = SCENES[name].roles or dict.fromkeys(board.rails, "+")
    assert result.rails == tuple(rail for rail, role in roles.items() if role != "info")


def test_the_total_is_the_input_rail_and_not_the_sum(played: Played) -> None:
    result, _ = played["hwmon"]
    assert result.power_mean_w == pytest.approx(3.0 + 8.0, rel=0.1)
    assert result.power_idle_w == pytest.approx(3.0, rel=0.02)
    assert result.sensor["refresh_s"] == pytest.approx(U, rel=0.1)


def test_a_result_names_what_it_covers(played: Played) -> None:
    result, _ = played["pmic"]
    assert (result.scope, result.sensor["kind"]) == ("board_pmic_rails", "vcgencmd_pmic")
    assert "pmic_read_adc" in result.sensor["paths"]["VDD_CORE"]
    assert any("fewer than 3" in reason for reason in result.low_confidence)


def test_negative_readings_are_kept(played: Played) -> None:
    result, board = played["negative"]
    (window,) = result.windows
    assert window["idle_before_w"] == pytest.approx(3.0 - 3.5, abs=0.05)
    assert window["energy_j"] == pytest.approx(board.between(window["start_s"], window["end_s"]) - 3.5 * 3.6, rel=0.1)


def reasons(played: Played, name: str) -> str:
    """Why a scene's result is not valid."""
    result, _ = played[name]
    assert (result.status, result.reason) == ("not_measured", "invalid_window")
    assert result.energy_total_mj is None
    assert len(result.windows) == 1
    return result.detail


def test_a_sensor_that_vanishes_in_mid_window(played: Played) -> None:
    assert "do not cover the window" in reasons(played, "absent")
    assert "readings failed" in " ".join(played["absent"][0].flags)


def test_a_sensor_that_sticks_in_mid_window(played: Played) -> None:
    assert "stuck" in reasons(played, "stuck")


def test_a_device_that_throttles_in_mid_window(played: Played) -> None:
    assert "core_throttle_count went from 4 to 5" in reasons(played, "throttled")
    assert played["throttled"][0].windows[0]["energy_total_mj"] is not None


def test_an_idle_power_that_moves(played: Played) -> None:
    assert "idle power moved" in reasons(played, "idle")


def test_a_sensor_under_another_number_is_found_again(played: Played) -> None:
    """Its gap is longer than a reading or two, which is said; the readings after it are there."""
    result, _ = played["renumbered"]
    (window,) = result.windows
    assert window["energy_j"] is not None
    assert window["coverage"] > 0.5


def test_a_refresh_that_is_set_during_the_window_is_noted(played: Played) -> None:
    result, _ = played["interval"]
    assert "settings changed" in " ".join(result.flags)
