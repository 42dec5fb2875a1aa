"""Energy as a budget, on a device whose law is known, with a bend the model cannot express, and a sensor that is noisy."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.selection.test_latency import DENSE, NETWORK, OPTIONS, law
from tests.selection.test_search import Device
from tests.selection.test_value import FISHER
from toolchain.errors import BudgetError, MeasurementError
from toolchain.measurement.energy_result import EnergyResult, not_measured
from toolchain.pruning.groups import Widths
from toolchain.selection import energy
from toolchain.selection.cost import Counting, macs
from toolchain.selection.energy import EnergyGoal
from toolchain.selection.goals import TOLERANCE, LatencyGoal
from toolchain.selection.learnt import study
from toolchain.selection.propose import exact
from toolchain.selection.sampling import spread_plans
from toolchain.selection.search import Found, search

LATENCY, WORK = law(Counting(8)), macs(NETWORK)
LEAST = {group: min(widths) for group, widths in OPTIONS.items()}


class Meter:
    """20 mJ dense; a fifth always, half by latency, the rest by multiply-adds, and a bend on top."""

    def __init__(self, bend: float = 0.0, uncertainty: float = 0.004, invalid: int = 0) -> None:
        self.timed, self.bend, self.uncertainty, self.invalid = SimpleNamespace(network=NETWORK), bend, uncertainty, invalid
        self.rng = np.random.default_rng(0)

    def share(self, plan: Widths) -> float:
        straight = 0.2 + 0.5 * LATENCY.at(plan) + 0.3 * WORK.at(plan) / WORK.at(DENSE)
        return straight * (1 + self.bend * (1 - straight))

    def measure(self, plans: Sequence[Widths]) -> tuple[EnergyResult, list[EnergyResult]]:
        found = [self.result(self.share(plan) * (1 + 0.003 * self.rng.standard_normal())) for plan in plans]
        found[: self.invalid] = [not_measured("invalid_window", "the load ended early")] * self.invalid
        return self.result(1.0), found

    def result(self, share: float) -> EnergyResult:
        total = 20.0 * share
        return EnergyResult("measured", scope="board", energy_total_mj=total, uncertainty_total_mj=self.uncertainty * total)


def run(meter: Meter, energy_share: float, latency_share: float | None = None) -> tuple[Found, EnergyGoal]:
    learnt = study(Device(), OPTIONS, 40, 0)  # type: ignore[arg-type]
    latency = LatencyGoal(learnt, latency_share, lambda _: LEAST)
    goal = EnergyGoal(meter, latency, spread_plans(OPTIONS, 12, 5))  # type: ignore[arg-type]
    assert goal.dense_mj == 20.0
    goal.share = energy_share
    return search(latency, exact(OPTIONS, FISHER, 0), others=[goal]), goal


@pytest.mark.parametrize(("share", "bend"), [(0.8, 0.0), (0.6, -0.15)])
def test_the_measured_energy_meets_the_budget(share: float, bend: float) -> None:
    meter = Meter(bend)
    found, _ = run(meter, share)
    assert abs(meter.share(found.widths) / share - 1) < TOLERANCE + 0.01
    assert found.rounds[-1].others["energy"]["measured"] == pytest.approx(share, rel=TOLERANCE)
    assert len(found.rounds) <= 4


def test_the_tighter_of_two_budgets_holds_the_plan_back() -> None:
    by_energy, _ = run(Meter(), 0.6, latency_share=0.9)
    assert by_energy.rounds[-1].others["energy"]["measured"] == pytest.approx(0.6, rel=TOLERANCE)
    assert by_energy.rounds[-1].measured < 0.9 * (1 - TOLERANCE)
    by_latency, _ = run(Meter(), 0.9, latency_share=0.5)
    assert by_latency.rounds[-1].measured == pytest.approx(0.5, rel=TOLERANCE)
    assert by_latency.rounds[-1].others["energy"]["measured"] < 0.9 * (1 - TOLERANCE)


def test_out_of_reach_names_the_least() -> None:
    with pytest.raises(BudgetError, match=r"energy budget cannot be reached[^\n]*\n[^\n]*0\.200[^\n]*\n.*narrowest"):
        run(Meter(), 0.2)


def test_a_sensor_that_cannot_tell_so_closely_widens_the_tolerance_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _, goal = run(Meter(uncertainty=0.06), 0.7)
    assert goal.tolerance == pytest.approx(0.06 * 2**0.5)
    assert "8.5%" in capsys.readouterr().err


def test_windows_that_are_invalid_are_left_out_until_too_few_are_left() -> None:
    latency: Any = SimpleNamespace(cost=LATENCY, least=LEAST)
    plans = spread_plans(OPTIONS, 12, 5)
    assert len(EnergyGoal(Meter(invalid=6), latency, plans).known) == 6  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="5 of 12: the load ended early"):
        EnergyGoal(Meter(invalid=7), latency, plans)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="invalid_window"):
        EnergyGoal(Meter(), latency, plans).measure.__func__(  # type: ignore[attr-defined]
            SimpleNamespace(meter=Meter(invalid=1)), plans[0]
        )


def test_the_law_is_found() -> None:
    plans = spread_plans(OPTIONS, 12, 3)
    found = energy.fit([(plan, Meter().share(plan)) for plan in plans], LATENCY, WORK)
    fresh = spread_plans(OPTIONS, 20, 4)
    truth = [Meter().share(plan) for plan in fresh]  # which does not round widths up, as the law does
    assert [found.at(plan) for plan in fresh] == pytest.approx(truth, rel=0.04)
    assert found.at(DENSE) == pytest.approx(1.0, rel=0.04)
