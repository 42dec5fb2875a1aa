"""The solver against brute force, and a cost as sums over pairs against the network's own arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from tests.pruning.cases import subject
from toolchain.errors import BudgetError
from toolchain.selection.cost import Cost, Exact, Ragged, macs
from toolchain.selection.elimination import Sums
from toolchain.selection.relaxation import relax
from toolchain.selection.solver import Limit, solve

OPTIONS = {"a": [8, 16, 24], "b": [8, 16, 24, 32], "c": [16, 32], "d": [8, 24]}
COST = Cost(16, 3.0, {"a": 0.5, "c": 0.1}, {("a", "b"): 0.01, ("b", "b"): 0.02, ("c", "d"): 0.03, ("a", "c"): 0.004})
READS = Cost(
    16, 3.0, {"a": 0.5, Exact("c"): 0.1},
    {(Exact("a"), "b"): 0.01, ("b", Exact("b")): 0.02, (Exact("c"), "d"): 0.03, ("a", Exact("c")): 0.004},
)  # fmt: skip
LEFT = Cost(
    1, 3.0, {**COST.linear, Ragged("a", 1, 16): 9.0, Ragged("b", 1, 16): 6.0, Ragged("d", 1, 16): 2.0}, COST.pair
)  # fmt: skip
SIZE = Cost(1, 0.0, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})


def losses(seed: int) -> dict[str, dict[int, float]]:
    rng = np.random.default_rng(seed)
    return {g: dict(zip(ws, sorted(rng.random(len(ws)), reverse=True), strict=True)) for g, ws in OPTIONS.items()}


def brute(loss: Mapping[str, Mapping[int, float]], limits: list[Limit]) -> float:
    plans = (dict(zip(OPTIONS, widths, strict=True)) for widths in itertools.product(*OPTIONS.values()))
    fitting = [plan for plan in plans if all(limit.cost.at(plan) <= limit.most for limit in limits)]
    return min(sum(loss[g][w] for g, w in plan.items()) for plan in fitting)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.45, 0.6, 0.9])
@pytest.mark.parametrize("cost", [COST, READS, LEFT], ids=["blocks", "exact reads", "something left over"])
def test_as_good_as_the_best_of_all_plans(seed: int, share: float, cost: Cost) -> None:
    most = share * cost.at({g: max(w) for g, w in OPTIONS.items()})
    limits = [Limit("latency", cost, most), Limit("size", SIZE, 250.0)]
    found = solve(OPTIONS, losses(seed), limits, gap=0.0)
    assert all(found.costs[limit.name] == limit.cost.at(found.widths) <= limit.most * (1 + 1e-6) for limit in limits)
    assert found.loss == pytest.approx(brute(losses(seed), limits), abs=1e-5)
    assert found.gap is not None
    assert found.gap < 1e-6  # what is rounded is not proven


def test_a_block_makes_the_staircase() -> None:
    at = [Cost(16, 0.0, {"a": 1.0}).at({"a": width}) for width in (1, 8, 16, 17, 24, 32)]
    assert at == [16, 16, 16, 32, 32, 32]
    assert [Cost(16, 0.0, {Exact("a"): 1.0}).at({"a": width}) for width in (1, 8, 17)] == [1, 8, 17]


def test_what_is_left_over_of_a_block_can_make_the_narrower_slower() -> None:
    cost, loss = Cost(1, 2.0, {"a": 1.0, Ragged("a", 1, 16): 20.0}), {"a": {8: 0.9, 16: 0.5, 24: 0.1}}
    assert [cost.at({"a": width}) for width in (8, 16, 24)] == [30, 18, 46]
    assert solve({"a": [8, 16, 24]}, loss, [Limit("latency", cost, 20.0)]).widths == {"a": 16}
    with pytest.raises(BudgetError, match="the least that can be reached is 18 "):
        solve({"a": [8, 16, 24]}, loss, [Limit("latency", cost, 17.0)])


def test_budgets_that_contradict_each_other_are_refused() -> None:
    slow, large = Cost(1, 0.0, {Ragged("a", 1, 16): 1.0}, {}), Cost(1, 0.0, {"a": 1.0})
    with pytest.raises(BudgetError, match="cannot be reached together"):
        solve({"a": [8, 16]}, {"a": {8: 0.9, 16: 0.5}}, [Limit("latency", slow, 0.5), Limit("size", large, 9.0)])


def test_an_unreachable_budget_names_the_least_there_is() -> None:
    least = COST.at({g: min(w) for g, w in OPTIONS.items()})
    with pytest.raises(BudgetError, match=f"latency.*\n.*{least / 2:.4g} of the dense.*\n.*{least:.4g} of the dense"):
        solve(OPTIONS, losses(0), [Limit("latency", COST, least / 2)])


def test_the_same_answer_twice() -> None:
    limits = [Limit("latency", COST, 0.6 * COST.at({g: max(w) for g, w in OPTIONS.items()}))]
    assert solve(OPTIONS, losses(3), limits).widths == solve(OPTIONS, losses(3), limits).widths


def test_no_plan_is_below_the_relaxation_and_none_is_better_than_its_width_allows() -> None:
    limits, rng = [(COST, 60.0), (SIZE, 250.0)], np.random.default_rng(0)
    sums = Sums.of(OPTIONS, losses(1), limits, ())
    plans = [dict(zip(OPTIONS, widths, strict=True)) for widths in itertools.product(*OPTIONS.values())]
    for prices in rng.random((5, 2)) * 3:
        worth = [told[0] + prices @ (told[1] - 1) for told in map(sums.told, plans)]
        least, plan = sums.minimum(prices)
        assert least == pytest.approx(min(worth)) == pytest.approx(worth[plans.index(plan)])
        for group, least_of_widths in sums.marginals(prices).items():
            for width, least_of_width in zip(OPTIONS[group], least_of_widths, strict=True):
                with_it = [one for one, other in zip(worth, plans, strict=True) if other[group] == width]
                assert least_of_width == pytest.approx(min(with_it))
    within = [told[0] for told in map(sums.told, plans) if (told[1] <= 1).all()]
    relaxed = relax(sums, {g: min(w) for g, w in OPTIONS.items()})
    assert 0 < relaxed.least <= min(within)


def test_multiply_adds_are_the_networks_own() -> None:
    network = subject()[2]
    cost, rng = macs(network), np.random.default_rng(0)
    for _ in range(5):
        widths = {g.name: int(rng.integers(1, g.channels + 1)) for g in network.free}
        assert cost.at(widths) == pytest.approx(network.macs(widths), rel=1e-12)
