"""The loop over a device whose law is known: it meets the budget although its first idea of the device is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.selection.test_latency import DENSE, NETWORK, OPTIONS, law
from tests.selection.test_value import FISHER
from toolchain.device.settings import On
from toolchain.device.sweep import Timing
from toolchain.errors import BudgetError, MeasurementError
from toolchain.selection.cost import Counting
from toolchain.selection.goals import TOLERANCE, LatencyGoal
from toolchain.selection.learnt import study
from toolchain.selection.propose import exact
from toolchain.selection.sampling import spread_plans
from toolchain.selection.search import search


class Device:
    """Answers as `Timed` does, from a law, with noise and a bend that the model cannot express."""

    def __init__(self, bend: float = 0.0, noise: float = 0.002, steady: bool = True) -> None:
        self.network, self.truth, self.bend, self.noise, self.steady = NETWORK, law(Counting(8)), bend, noise, steady
        self.rng, self.timed = np.random.default_rng(0), 0
        self.on = On(runtime="ncnn")  # which tells no times of layers

    def times(self, plans: Sequence[Mapping[str, int]]) -> list[Timing]:
        found = []
        for plan in plans:
            self.timed += 1
            straight = self.truth.at(plan)
            ratio = straight * (1 + self.bend * straight) * (1 + self.noise * self.rng.standard_normal())
            found.append(Timing(str(self.timed), {"widths": dict(plan)}, "", ratio, 0.001, self.steady, [], [], 1))
        return found


def run(device: Device, share: float, **more: Any) -> Any:
    learnt = study(device, OPTIONS, 40, 0)  # type: ignore[arg-type]
    least = {group: min(widths) for group, widths in OPTIONS.items()}
    return search(LatencyGoal(learnt, share, lambda _: least), exact(OPTIONS, FISHER, 0), **more)


@pytest.mark.parametrize("share", [0.7, 0.5, 0.35])
@pytest.mark.parametrize("bend", [0.0, -0.2])
def test_the_measured_engine_meets_the_budget(share: float, bend: float) -> None:
    device = Device(bend)
    found = run(device, share)
    assert abs(found.rounds[-1].measured / share - 1) <= TOLERANCE
    assert len(found.rounds) <= 4
    assert found.widths == found.rounds[-1].widths
    assert all(found.widths[g] in OPTIONS[g] for g in DENSE)
    assert found.timings == 40 + len(found.rounds) == device.timed


class Rough(Device):
    """Each width of each group takes a little more or less than any law of channels tells."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.more = {g: dict(zip(ws, 0.006 * rng.standard_normal(len(ws)), strict=True)) for g, ws in OPTIONS.items()}

    def times(self, plans: Sequence[Mapping[str, int]]) -> list[Timing]:
        return [
            replace(one, ratio=one.ratio * (1 + sum(self.more[g][w] for g, w in plan.items())))
            for one, plan in zip(super().times(plans), plans, strict=True)
        ]


@pytest.mark.parametrize("seed", range(10))
def test_between_two_plans_that_miss_the_budget_lies_one_that_meets_it(seed: int) -> None:
    found = run(Rough(seed), 0.4, rounds=4)  # seed 2 takes five where all widths stay open
    assert abs(found.rounds[-1].measured / 0.4 - 1) <= TOLERANCE


def test_out_of_reach_names_the_least() -> None:
    with pytest.raises(BudgetError, match=r"0\.100.*\n.*narrowest network measured 0\.3"):
        run(Device(), 0.1)


def test_an_unsteady_device_is_refused() -> None:
    with pytest.raises(MeasurementError, match="40 of 40 timings"):
        run(Device(steady=False), 0.5)


def test_no_more_plans_are_timed_than_the_model_gets_better_by() -> None:
    for device, asked, timed in (
        (Device(), None, 40),  # good at once
        (Device(noise=0.05), None, 60),  # no number of plans makes that good
        (Device(noise=0.05), 45, 45),  # what was asked for
        (Device(), 45, 45),
    ):
        learnt = study(device, OPTIONS, asked, 0)  # type: ignore[arg-type]
        assert len(learnt.known) == timed
        assert (learnt.model.held_out.mape <= 0.025) == (device.noise < 0.05)


def test_the_same_seed_and_timings_give_the_same_plan() -> None:
    assert run(Device(), 0.5).widths == run(Device(), 0.5).widths


class Hasty(Device):
    """Says of a plan alone that it takes `factor` of what its kind took in the spread."""

    factor = 0.9

    def times(self, plans: Sequence[Mapping[str, int]]) -> list[Timing]:
        found = super().times(plans)
        return [replace(one, ratio=one.ratio * self.factor) for one in found] if len(plans) == 1 else found


@pytest.mark.parametrize("factor", [0.93, 1.07])
def test_a_plan_near_the_budget_is_grown_or_narrowed(factor: float) -> None:
    device = Hasty()
    device.factor = factor
    first, second = run(device, 0.5).rounds
    assert all((second.widths[g] - first.widths[g]) * (1 - factor) >= 0 for g in OPTIONS)
    assert abs(second.measured / 0.5 - 1) <= TOLERANCE


def test_after_the_last_round_the_largest_engine_below_the_budget_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(Hasty(), 0.5, rounds=1)
    assert found.rounds[-1].measured < 0.5 * (1 - TOLERANCE)
    assert "below the budget" in capsys.readouterr().err


def test_over_the_budget_in_every_round_is_refused() -> None:
    device = Hasty()
    device.factor = 1.1
    with pytest.raises(BudgetError, match="after 1 rounds"):
        run(device, 0.5, rounds=1)


def test_the_first_plans_of_many_are_those_of_few() -> None:
    many = spread_plans(OPTIONS, 100, 3)
    assert spread_plans(OPTIONS, 20, 3) == many[:20]
    shares = [np.mean([plan[g] / DENSE[g] for g in plan]) for plan in many[:32]]
    assert np.histogram(shares, 4, (min(shares), max(shares)))[0].min() >= 4  # no size is left out
