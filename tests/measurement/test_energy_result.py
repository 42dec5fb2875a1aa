"""A figure of energy says what it covers, and only like is held against like."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from toolchain.errors import MeasurementError
from toolchain.measurement.energy_result import REASONS, EnergyResult, comparable, not_measured, saving


def result(each_mj: list[float], **more: object) -> EnergyResult:
    windows = tuple({"energy_total_mj": value, "valid": value > 0} for value in each_mj)
    base = EnergyResult(
        "measured", scope="module", rails=("VDD_IN",), excludes=("carrier",), sensor={"kind": "hwmon"}, windows=windows
    )
    return replace(base, **more)  # type: ignore[arg-type]


A = result([100.0] * 7)


def test_like_is_comparable_with_like() -> None:
    comparable(A, result([50.0]))


@pytest.mark.parametrize(
    "change",
    [{"scope": "ac_wall"}, {"rails": ("VDD_IN", "CPU")}, {"excludes": ()}, {"sensor": {"kind": "http"}}],
    ids=lambda change: next(iter(change)),
)
def test_different_scopes_are_never_compared(change: dict[str, object]) -> None:
    for pair in ((A, result([50.0], **change)), (result([50.0], **change), A)):
        with pytest.raises(MeasurementError, match="not comparable"):
            comparable(*pair)
        with pytest.raises(MeasurementError, match="not comparable"):
            saving(*pair)


def test_what_was_not_measured_is_not_compared() -> None:
    with pytest.raises(MeasurementError, match="not measured"):
        comparable(A, not_measured("no_sensor", "none there"))


def test_saving_is_by_rounds_and_skips_invalid_ones() -> None:
    ratio = saving(A, result([50.0, 50, 50, 40, 50, 60, -1]))
    assert ratio is not None
    assert (ratio.value, ratio.rounds) == (2.0, 6)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 100 / 60 < ratio.low < ratio.value < ratio.high < 2.5  # between the outer two rounds of six
    few = saving(A, result([50.0, 50.0]))
    assert few is not None
    assert (few.low, few.reason is None) == (None, False)
    assert saving(A, result([-1.0])) is None


@pytest.mark.parametrize("reason", REASONS)
def test_not_measured_is_never_zero(reason: str) -> None:
    data = not_measured(reason, "because").to_json()
    assert (data["status"], data["reason"], data["detail"], data["valid"]) == ("not_measured", reason, "because", False)
    assert data["energy_total_mj"] is None
    assert data["energy_marginal_mj"] is None
    assert data["scope"] is None


@pytest.mark.parametrize(("status", "reason"), [("not_measured", None), ("not_measured", "rain"), ("measured", "no_sensor")])
def test_reasons_are_a_closed_list(status: str, reason: str | None) -> None:
    with pytest.raises(MeasurementError):
        EnergyResult(status, reason)  # type: ignore[arg-type]


def test_json_round_trip() -> None:
    whole = replace(A, saving=saving(A, A), range_total_mj=(1.0, 2.0), flags=("x",))
    assert EnergyResult.from_json(json.loads(json.dumps(whole.to_json()))) == whole
