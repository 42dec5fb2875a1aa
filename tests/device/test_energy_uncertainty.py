"""The error of the sensor itself: in the uncertainty where it is known, said to be missing where it is not."""

from __future__ import annotations

from math import hypot, sqrt
from typing import Any

import numpy as np
import pytest

from tests.device.plant_runs import target_for
from tests.lab.plant import Board
from tests.lab.waveform import constant
from toolchain.device.energy_judge import UNKNOWN_ERROR, Repeat, result_of
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.energy_sensor import Chosen
from toolchain.device.power_messages import Reader
from toolchain.device.target_power import PowerSource
from toolchain.errors import UsageError
from toolchain.measurement.energy_result import EnergyResult
from toolchain.measurement.energy_window import Window

WINDOW = Window(  # 100 inferences in 10 s at 5 W, of which the idle device takes 3 W
    0.0, 10.0, 100, energy_j=50.0, energy_total_mj=500.0, energy_marginal_mj=200.0, uncertainty_total_mj=3.0,
    uncertainty_marginal_mj=4.0, power_mean_w=5.0, power_idle_w=3.0,
)  # fmt: skip


def result(**error: float | None) -> EnergyResult:
    covers: dict[str, Any] = {"scope": "module", "rails": ("VDD_IN",), "sensor": {"kind": "hwmon", **error}}
    return result_of([Repeat(WINDOW, (), np.ones(100))] * 3, covers)


def test_a_share_of_the_reading_and_watts() -> None:
    found = result(error_percent=3.0, error_w=0.1)
    total_mj, marginal_mj = 0.03 * 500 + 0.1 * 100, 0.03 * 200  # 100 ms an inference; a constant error cancels in the marginal
    assert found.uncertainty_total_mj == pytest.approx(hypot(3.0, 2 * total_mj / sqrt(3)))
    assert found.uncertainty_marginal_mj == pytest.approx(hypot(4.0, 2 * marginal_mj / sqrt(3)))
    assert found.energy_total_mj == 500.0
    assert UNKNOWN_ERROR not in found.flags


def test_watts_alone() -> None:
    found = result(error_percent=None, error_w=0.1)
    assert found.uncertainty_total_mj == pytest.approx(hypot(3.0, 2 * 10.0 / sqrt(3)))
    assert found.uncertainty_marginal_mj == pytest.approx(4.0)


def test_what_nobody_states_is_said_to_be_missing() -> None:
    for found in (result(), result(error_percent=None, error_w=None)):
        assert found.uncertainty_total_mj == pytest.approx(3.0)
        assert UNKNOWN_ERROR in found.flags


def test_it_comes_from_the_target_or_the_user(tmp_path: Any) -> None:
    board = Board(tmp_path, constant(6.0), rails={"VDD_IN": 1.0})
    (source,) = target_for(board).power.source
    stated = PowerSource.model_validate({**source.model_dump(exclude={"reads"}), "error_percent": 1.5})
    reader = Reader(
        unit="W", rails=["VDD_IN"], paths={"VDD_IN": "x"}, update_ms=None, quantum={}, wrap_j=None, averages=True, settings={}
    )
    about = Chosen(stated, reader, 0.1).covers()["sensor"]
    assert (about["error_percent"], about["error_w"]) == (1.5, None)
    assert EnergyRequest(meter="command:read", meter_error_w=0.5).meter_error() == {"error_percent": None, "error_w": 0.5}


@pytest.mark.parametrize(
    "wrong",
    [{"meter_error_percent": 0.0}, {"meter_error_percent": 51.0}, {"meter_error_w": -1.0}, {"meter_error_w": 1e4}],
    ids=str,
)
def test_errors_no_meter_has(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a meter's error must be"):
        EnergyRequest(meter="command:read", **wrong)  # type: ignore[arg-type]


def test_an_error_of_no_meter() -> None:
    with pytest.raises(UsageError, match="no meter"):
        EnergyRequest(meter_error_percent=1.0)
