"""Whole Bottlenecks as a choice: costs are the network's own arithmetic, the solver is exact, the device's law is found."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from tests.pruning.cases import CHAIN, SEEDS, SHORT, deep, full, random_depth, without
from toolchain.pruning.depth import Removal, check_depth
from toolchain.pruning.groups import Network
from toolchain.selection import latency
from toolchain.selection.cost import Cost, Counting, Exact, Present, Ragged, macs, sides, weights
from toolchain.selection.missing import with_missing
from toolchain.selection.propose import exact
from toolchain.selection.sampling import GONE, near_plans, spread_plans
from toolchain.selection.shapes import engine_sizes, removable_options
from toolchain.selection.solver import Limit, solve
from toolchain.selection.table import learn_table

NETWORK: Network = deep()[2]
WIDTHS = {g.name: list(range(4, g.channels + 1, 4)) or [g.channels] for g in NETWORK.free}
OPTIONS = removable_options(NETWORK, WIDTHS)


def test_zero_is_an_option_of_what_may_go_alone() -> None:
    zero = {group for group, widths in OPTIONS.items() if 0 in widths}
    assert zero == {f"{b}.cv1" for b in ("model.2.m.0", *SHORT, *CHAIN)} | {f"{b}.cv2" for b in CHAIN}
    assert {group: [w for w in widths if w] for group, widths in OPTIONS.items()} == WIDTHS
    assert all(widths == sorted(widths) for widths in OPTIONS.values())


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_costs_are_the_networks_own_arithmetic(seed: int) -> None:
    widths = random_depth(NETWORK, seed)
    assert macs(NETWORK).at(widths) == pytest.approx(NETWORK.macs(widths), rel=1e-12)
    assert weights(NETWORK).at(widths) == pytest.approx(NETWORK.params(widths), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_a_convolution_that_is_gone_reads_and_writes_nothing(seed: int) -> None:
    widths = random_depth(NETWORK, seed)
    sizes = Cost().sizes(widths)
    for name, (inputs, outputs) in engine_sizes(NETWORK, widths).items():
        expected = (inputs, outputs) if inputs and outputs else (0, 0)
        assert tuple(side.at(sizes) for side in sides(NETWORK)[name]) == expected, name


def test_the_sums_hold_no_negative_part() -> None:
    for cost in (macs(NETWORK), weights(NETWORK)):
        assert all(k > 0 for k in (*cost.linear.values(), *cost.pair.values()))


# --- plans to time ---------------------------------------------------------------------------------------------------------


def test_bottlenecks_are_missing_now_and_then_and_consistently() -> None:
    plans = spread_plans(OPTIONS, 300, seed=1, removals=NETWORK.removals)
    for plan in plans:
        check_depth(NETWORK.removals, plan)
    share = {r.block: sum(not plan[r.hidden] for plan in plans) / len(plans) for r in NETWORK.removals}
    for block in ("model.2.m.0", *SHORT, CHAIN[0]):
        assert share[block] == pytest.approx(GONE / 2, abs=0.07), block
    assert share[CHAIN[2]] == pytest.approx(1 - (1 - (1 - GONE) ** 4) / (4 * GONE), abs=0.09)  # gone with any of three
    counts = [sum(not plan[r.hidden] for r in NETWORK.removals) for plan in plans]
    assert min(counts) == 0
    assert max(counts) >= 0.8 * len(NETWORK.removals)
    assert plans == spread_plans(OPTIONS, 300, seed=1, removals=NETWORK.removals)


def test_the_other_widths_are_those_of_a_spread_without_removals() -> None:
    for with_, plain in zip(spread_plans(OPTIONS, 50, 2, removals=NETWORK.removals), spread_plans(WIDTHS, 50, 2), strict=True):
        assert {g: w for g, w in with_.items() if w} == {g: plain[g] for g, w in with_.items() if w}
    assert spread_plans(OPTIONS, 50, 2) == spread_plans(WIDTHS, 50, 2)


def test_near_plans_keep_the_depth() -> None:
    start = without(NETWORK, {g: w[-1] for g, w in WIDTHS.items()}, {SHORT[1], CHAIN[1]})
    for plan in near_plans(start, OPTIONS, 20, seed=0):
        assert {g for g, w in plan.items() if not w} == {g for g, w in start.items() if not w}


# --- latency ---------------------------------------------------------------------------------------------------------------


def law(each: float = 0.03) -> Cost:
    """0.1 constant, the rest by multiply-adds, and a fixed part for every Bottleneck that is there."""
    work = macs(NETWORK)
    scale = (0.9 - each * len(NETWORK.removals)) / work.at(full(NETWORK))
    linear = {g: scale * k for g, k in work.linear.items()} | {Present(r.hidden): each for r in NETWORK.removals}
    return Cost(1, 0.1 + scale * work.constant, linear, {p: scale * k for p, k in work.pair.items()})


def test_a_law_with_a_fixed_part_for_each_bottleneck_is_learnt() -> None:
    truth, rng = law(), np.random.default_rng(0)
    plans = spread_plans(OPTIONS, 120, seed=1, removals=NETWORK.removals)
    model = latency.fit(NETWORK, plans, [truth.at(plan) * (1 + 0.005 * rng.standard_normal()) for plan in plans])
    fresh = spread_plans(OPTIONS, 60, seed=2, removals=NETWORK.removals)
    seen = latency.quality(np.array([model.cost.at(p) for p in fresh]), np.array([truth.at(p) for p in fresh]))
    assert seen.mape < 0.025
    assert seen.kendall_tau > 0.95
    fixed = [k for term, k in model.cost.linear.items() if isinstance(term, Present) and term.of is None]
    assert sum(fixed) == pytest.approx(0.03 * len(NETWORK.removals), rel=0.35)
    assert all(k >= 0 for k in (*model.cost.linear.values(), *model.cost.pair.values()))


def test_plans_of_one_depth_leave_the_fixed_parts_to_the_constant() -> None:
    plans = spread_plans(WIDTHS, 60, seed=1)
    model = latency.fit(NETWORK, plans, [law().at(plan) for plan in plans])
    fresh = spread_plans(WIDTHS, 30, seed=2)
    assert latency.quality(np.array([model.cost.at(p) for p in fresh]), np.array([law().at(p) for p in fresh])).mape < 0.02


# --- the solver ------------------------------------------------------------------------------------------------------------

SMALL = {"a": [8, 16, 24], "o": [8, 24], "h": [0, 8, 16], "j": [0, 16], "k": [0, 8], "u": [0, 8, 24], "v": [0, 16]}
REMOVALS = (
    Removal("m.0", ("h",), "r", "a", None), Removal("m.1", ("j",), "r", "a", None),
    Removal("n.0", ("k", "u"), None, "a", "n.1"), Removal("n.1", ("v",), None, "u", None),
)  # fmt: skip
COST = Cost(
    16, 2.0, {"a": 0.5, "o": 0.1, Present("h", "a"): 0.2, Present("h"): 3.0, Present("k"): 2.0},
    {("a", "o"): 0.02, ("a", "h"): 0.03, (Present("h", "a"), "o"): 0.02, (Present("j", "a"), "o"): 0.05, ("a", "k"): 0.02,
     ("k", "u"): 0.03, (Present("v", "u"), "o"): 0.04, ("u", "v"): 0.01},
)  # fmt: skip
READS = Cost(
    16, 2.0, {"a": 0.5, "o": 0.1, Present("h", Exact("a")): 0.2, Present("h"): 3.0, Present("k"): 2.0},
    {(Exact("a"), "o"): 0.02, (Exact("a"), "h"): 0.03, (Present("h", Exact("a")), "o"): 0.02, (Present("j", "a"), "o"): 0.05,
     ("a", Exact("k")): 0.02, ("k", Exact("u")): 0.03, (Present("v", Exact("u")), "o"): 0.04, ("u", "v"): 0.01},
)  # fmt: skip

LEFT = Cost(
    1, 2.0,
    {**COST.linear, Ragged("a", 1, 16): 4.0, Present("h", Ragged("a", 1, 16)): 3.0, Present("k", Ragged("o", 1, 16)): 2.0},
    COST.pair,
)  # fmt: skip


def consistent(plan: dict[str, int]) -> bool:
    """By hand: the groups of n.0 are empty together and take n.1 along."""
    return (not plan["k"]) == (not plan["u"]) and (bool(plan["k"]) or not plan["v"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.2, 0.45, 0.8])
@pytest.mark.parametrize("cost", [COST, READS, LEFT], ids=["blocks", "exact reads", "something left over"])
def test_as_good_as_the_best_of_all_plans_with_bottlenecks_gone(seed: int, share: float, cost: Cost) -> None:
    rng = np.random.default_rng(seed)
    loss = {g: dict(zip(ws, sorted(rng.random(len(ws)), reverse=True), strict=True)) for g, ws in SMALL.items()}
    plans = [dict(zip(SMALL, widths, strict=True)) for widths in itertools.product(*SMALL.values())]
    most = share * cost.at({g: max(w) for g, w in SMALL.items()})
    fitting = [plan for plan in plans if consistent(plan) and cost.at(plan) <= most]
    best = min(sum(loss[g][w] for g, w in plan.items()) for plan in fitting)
    found = solve(SMALL, loss, [Limit("latency", cost, most)], removals=REMOVALS, gap=0.0)
    assert consistent(found.widths)
    assert found.costs["latency"] == cost.at(found.widths) <= most * (1 + 1e-6)
    assert found.loss == pytest.approx(best, abs=5e-5)
    assert found.gap is not None
    assert found.gap < 1e-6  # what is rounded is not proven


@pytest.mark.parametrize("gone", [(), ("h",), ("h", "j", "k", "u", "v")])
def test_a_plan_between_two_has_no_width_outside_of_theirs(gone: tuple[str, ...]) -> None:
    loss = {g: {w: 1 - i / len(ws) for i, w in enumerate(ws)} for g, ws in SMALL.items()}
    small = {g: 0 if g in gone else next(w for w in ws if w) for g, ws in SMALL.items()}
    large = {g: 0 if g in gone else max(ws) for g, ws in SMALL.items()}
    most = (COST.at(small) + COST.at(large)) / 2
    found = exact(SMALL, loss, 0, removals=REMOVALS)([Limit("latency", COST, most)], (small, large)).widths
    assert all(small[g] <= w <= large[g] for g, w in found.items())
    assert consistent(found)
    assert COST.at(small) < COST.at(found) <= most


def test_some_of_those_plans_lose_bottlenecks_and_some_do_not() -> None:
    gone: Counter[bool] = Counter()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        loss = {g: dict(zip(ws, sorted(rng.random(len(ws)), reverse=True), strict=True)) for g, ws in SMALL.items()}
        most = 0.45 * COST.at({g: max(w) for g, w in SMALL.items()})
        widths = solve(SMALL, loss, [Limit("latency", COST, most)], removals=REMOVALS).widths
        gone.update([widths[group] == 0 for group in ("h", "j", "k")])
    assert gone[True] >= 3 <= gone[False]


def test_a_real_network_is_solved_within_its_budgets() -> None:
    rng = np.random.default_rng(5)
    loss = {g: dict(zip(ws, sorted(rng.random(len(ws)), reverse=True), strict=True)) for g, ws in OPTIONS.items()}
    for r in NETWORK.removals:
        loss[r.hidden][0] = loss[r.hidden][4] + 0.01
    limits = [Limit("latency", law(), 0.4), Limit("size", weights(NETWORK), 0.5 * NETWORK.params({}))]
    found = solve(OPTIONS, loss, limits, removals=NETWORK.removals, gap=0.05)
    check_depth(NETWORK.removals, found.widths)
    assert any(w == 0 for w in found.widths.values())
    assert NETWORK.params(found.widths) <= 0.5 * NETWORK.params({}) * (1 + 1e-6)
    assert found.costs["latency"] <= 0.4 * (1 + 1e-6)
    assert found.gap is not None
    assert found.gap <= 0.05


# --- what a missing Bottleneck costs ---------------------------------------------------------------------------------------


def test_a_removal_is_charged_once() -> None:
    loss = {g: dict.fromkeys(ws, 1.0) for g, ws in SMALL.items()}
    found = with_missing(loss, REMOVALS, {"h": 0.3, "j": -0.1, "k": 0.9, "v": 0.4})
    assert found["h"][0] == 0.3
    assert found["j"][0] == 0.0  # better without: worth nothing, not less
    assert found["k"][0] == pytest.approx(0.5)  # measured without n.1 too, which is charged at v
    assert (found["u"][0], found["v"][0]) == (0.0, 0.4)
    assert all(found[g][w] == 1.0 for g, ws in SMALL.items() for w in ws if w)
    assert loss["h"][0] == 1.0  # what was given is as it was


# --- the table of layers ---------------------------------------------------------------------------------------------------


def test_a_table_learns_nothing_from_layers_that_are_gone() -> None:
    rng = np.random.default_rng(0)
    per_layer = {name: rng.uniform(1e-5, 1e-4) for name in sides(NETWORK)}
    plans = spread_plans(OPTIONS, 60, seed=3, removals=NETWORK.removals)

    def profile(plan: dict[str, int]) -> dict[str, float]:
        times = {"rest: Concat": 0.2}
        for name, (inputs, outputs) in engine_sizes(NETWORK, plan).items():
            if inputs and outputs:
                times[name] = 0.05 + per_layer[name] * inputs * outputs
        return times

    table = learn_table(NETWORK, plans, [profile(plan) for plan in plans], Counting())
    fresh = spread_plans(OPTIONS, 20, seed=4, removals=NETWORK.removals)
    found, true = np.array([table.at(plan) for plan in fresh]), np.array([sum(profile(plan).values()) for plan in fresh])
    np.testing.assert_allclose(found, true, rtol=1e-6)
