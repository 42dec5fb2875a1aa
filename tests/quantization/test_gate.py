"""The gate lets good models pass and tells what to do about the others."""

from __future__ import annotations

import math

import pytest

from toolchain.errors import AccuracyGateError
from toolchain.quantization.costs import LayerCost
from toolchain.quantization.gate import Attempt, check_gate
from toolchain.quantization.recipe import list_recipes


def test_passes_up_to_the_limit() -> None:
    assert check_gate(0.5, 0.495)["drop"] == pytest.approx(0.005)
    assert check_gate(0.5, 0.52)["drop"] == pytest.approx(-0.02)
    assert check_gate(0.5, 0.4, 0.11)["max_drop"] == 0.11


def test_fails_with_numbers_layers_and_steps() -> None:
    costs = [LayerCost("/model.1/conv/Conv", 9.5), LayerCost("/model.2/conv/Conv", 21.0)]
    with pytest.raises(AccuracyGateError) as caught:
        check_gate(0.5744, 0.525, costs=costs, tried=[Attempt("minmax", 0, 0.525, "val")], images=64)
    text = str(caught.value)
    assert "tried: minmax: 0.5250 on val" in text
    assert "--mixed" in text
    for part in ("0.5744", "0.5250", "0.0494", "0.0100", "/model.1/conv/Conv (9.5 dB)", "keep_float", "than 64"):
        assert part in text
    advice = text.split("another recipe: ")[1].split(";")[0]
    assert set(advice.split(", ")) == set(list_recipes()) - {"minmax"}
    assert caught.value.exit_code == 8


def test_advises_only_what_is_left() -> None:
    with pytest.raises(AccuracyGateError) as caught:
        check_gate(0.5, 0.1, tried=[Attempt(name, 3, 0.1, "val") for name in list_recipes()], images=300)
    text = str(caught.value)
    assert "minmax, layers in float: 3: 0.1000 on val" in text
    assert "--mixed" not in text
    assert "another recipe" not in text
    assert "more calibration pictures" not in text
    assert "float engine" in text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.5])
def test_a_value_that_is_no_map_never_passes(bad: float) -> None:
    with pytest.raises(AccuracyGateError, match="the INT8 mAP is not a number"):
        check_gate(0.5, bad)
    with pytest.raises(AccuracyGateError, match="the float mAP is not a number"):
        check_gate(bad, 0.5)
