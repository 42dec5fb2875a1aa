"""Energy by external meters, all at once: a plug, one that falls silent in mid-window, a log by a clock of its own.

The boards' wall clocks are of no use: the plug's is set by a year again and again, that beside the log does not know the year.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import tinynet
from tests.device.plant_runs import run, short, target_for
from tests.lab.clock import YEAR_S, python_with_clock
from tests.lab.meter import logged, plugged
from tests.lab.plant import Board, start_plant
from tests.lab.sense import Ina3221
from tests.lab.waveform import constant
from toolchain.device.energy_request import EnergyRequest
from toolchain.measurement.energy_result import EnergyResult

AHEAD_S = 3.0
Metered = dict[str, tuple[EnergyResult, Board]]


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Metered:
    """Result and truth by meter."""
    folder = tmp_path_factory.mktemp("meters")
    engine = tinynet.save_detector(folder / "one.onnx")
    names = ("plug", "silent", "log")
    boards = {name: Board(folder / name, constant(6.0), sensor=Ina3221(0.2), rails={"VDD_IN": 1.0}) for name in names}
    log = folder / "meter.csv"
    phases = short(idle_s=3.5, lead_in_s=2.0, window_s=4.0, updates=1, marker_s=(1.0, 1.13, 1.27))
    with (
        start_plant(folder / "run", boards) as plant,
        plugged(lambda t: plant.boards["plug"].between(t - 0.2, t) / 0.2) as plug,
        plugged(lambda t: plant.boards["silent"].power(t)) as failing,
        logged(log, lambda t: plant.boards["log"].power(t), every_s=0.1, ahead_s=AHEAD_S),
    ):

        def silence(phase: str) -> None:
            failing.silent = phase == "window"

        meters: dict[str, Any] = {
            "plug": {"meter": f"{plug.url}#apower"},
            "silent": {"meter": f"{failing.url}#apower"},
            "log": {"meter": f"csv:{log}", "meter_scope": "dc_input"},
        }
        pythons = {
            "plug": python_with_clock(folder / "set-clock", 0.0, YEAR_S, -YEAR_S),
            "silent": sys.executable,
            "log": python_with_clock(folder / "lost-clock", -50 * YEAR_S),
        }

        def one(name: str) -> tuple[EnergyResult, Board]:
            request = EnergyRequest(repeats=1, rate_hz=20.0, phases=phases, **meters[name])
            target, on_phase = target_for(boards[name]), silence if name == "silent" else None
            out, python = folder / f"out-{name}", pythons[name]
            result = run(plant, name, {"one": engine}, out, request=request, target=target, on_phase=on_phase, python=python)
            return result["one"], plant.truth(name)

        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))


@pytest.mark.parametrize(("name", "scope", "kind"), [("plug", "ac_wall", "http"), ("log", "dc_input", "csv")])
def test_a_meter_gives_the_true_energy(metered: Metered, name: str, scope: str, kind: str) -> None:
    result, board = metered[name]
    assert result.valid, result.detail
    assert (result.scope, result.rails, result.sensor["kind"]) == (scope, ("meter",), kind)
    (window,) = result.windows
    assert window["energy_j"] == pytest.approx(board.between(window["start_s"], window["end_s"]), rel=0.02)


def test_the_window_is_as_long_as_a_slow_meter_asks_for(metered: Metered) -> None:
    """A plug is taken to refresh every 3 s; one refresh and one at each end are asked for here."""
    (window,) = metered["plug"][0].windows
    assert window["end_s"] - window["start_s"] >= 7


def test_the_clock_of_a_log_is_found_and_told(metered: Metered) -> None:
    (window,) = metered["log"][0].windows
    (note,) = [note for note in window["notes"] if "meter's clock" in note]
    assert float(note.split(" is ")[1].split(" s ")[0]) == pytest.approx(AHEAD_S, abs=0.3)  # the plant switches 0.15 s late


def test_a_plug_that_falls_silent_in_mid_window(metered: Metered) -> None:
    result, _ = metered["silent"]
    assert (result.reason, result.energy_total_mj) == ("invalid_window", None)
    assert "no reading for" in result.detail
    assert "cover" in result.detail
