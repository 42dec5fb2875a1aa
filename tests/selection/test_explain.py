"""Why a plan is as it is: the widths that buy nothing, who gave what back, the words, other budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.selection.test_latency import DENSE, NETWORK, OPTIONS, law
from tests.selection.test_solver import COST, LEFT, SIZE, losses
from tests.selection.test_solver import OPTIONS as FOUR
from tests.selection.test_value import FISHER
from toolchain.device.sweep import Timing
from toolchain.selection import front as fronts
from toolchain.selection.cost import Cost, Counting, Ragged
from toolchain.selection.explain import explain, layers, savings
from toolchain.selection.front import best, front
from toolchain.selection.solver import Limit, solve
from toolchain.selection.staircase import NOTHING, near, stairs, useful

LAW = law(Counting(8))
SHARE = 0.5


def chosen() -> dict[str, int]:
    return solve(useful(OPTIONS, [LAW]), FISHER, [Limit("latency", LAW, SHARE)], gap=0.0).widths


def timing(plan: Mapping[str, int], ratio: float) -> Timing:
    return Timing(str(plan), {"widths": dict(plan)}, "", ratio, 0.001, True, [], [], 1)


def test_only_the_widest_of_a_step_is_worth_choosing() -> None:
    worth = useful(OPTIONS, [LAW])
    for group, widths in OPTIONS.items():
        assert worth[group] == sorted({max(w for w in widths if LAW.size(group, w) == LAW.size(group, v)) for v in widths})


@pytest.mark.parametrize("cost", [LAW, law(Counting(ragged=16))], ids=["blocks", "something left over"])
def test_a_dropped_width_is_no_faster_whatever_the_other_groups_have(cost: Cost) -> None:
    worth, rng = useful(OPTIONS, [cost]), np.random.default_rng(0)
    assert worth != OPTIONS
    for _ in range(20):
        rest = {g: int(rng.choice(widths)) for g, widths in OPTIONS.items()}
        for group, widths in OPTIONS.items():
            for width in set(widths) - set(worth[group]):
                wider = min(w for w in worth[group] if w > width)
                assert cost.at({**rest, group: wider}) <= cost.at({**rest, group: width}) + NOTHING


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cost", [COST, LEFT], ids=["blocks", "something left over"])
def test_dropping_widths_loses_no_plan(seed: int, cost: Cost) -> None:
    limits = [Limit("latency", cost, 0.6 * cost.at({g: max(w) for g, w in FOUR.items()}))]
    whole, worth = (solve(given, losses(seed), limits, gap=0.0).loss for given in (FOUR, useful(FOUR, [cost])))
    assert worth == pytest.approx(whole, abs=1e-5)


def test_a_budget_of_bytes_makes_every_width_count() -> None:
    assert useful(FOUR, [COST, SIZE]) == FOUR
    assert useful(FOUR, [COST]) != FOUR
    assert useful(FOUR, []) == FOUR


def test_a_group_without_a_cost_keeps_its_widest_alone() -> None:
    assert useful(FOUR, [Cost(1, 1.0, {"a": 1.0, "b": 1.0, "c": 1.0})])["d"] == [24]


def test_what_all_groups_give_back_is_what_the_plan_saves() -> None:
    plan = chosen()
    saved = savings(LAW, plan, DENSE)
    assert sum(saved.values()) == pytest.approx(LAW.at(DENSE) - LAW.at(plan), rel=1e-9)
    assert all(one >= -1e-12 for one in saved.values())


def test_every_group_is_explained_and_the_shares_are_whole() -> None:
    plan = chosen()
    rows = layers(NETWORK, OPTIONS, FISHER, LAW, plan, dense_ms=10.0)
    assert [row.group for row in rows] == [group.name for group in NETWORK.groups]
    assert all(row.why for row in rows)
    assert sum(row.loss_share for row in rows) == pytest.approx(1)
    assert sum(row.saved_share for row in rows) == pytest.approx(1)
    assert {row.kind for row in rows} >= {"frozen", "balanced"}
    frozen = next(row for row in rows if row.kind == "frozen")
    assert frozen.kept == frozen.channels
    assert "outputs" in frozen.why or "DFL" in frozen.why


def one(group: str, widths: list[int], kept: int, curve: Mapping[int, float], cost: Cost = LAW) -> tuple[str, str]:
    """Kind and words of one group, the others as chosen."""
    options, plan, loss = {**OPTIONS, group: widths}, {**chosen(), group: kept}, {**FISHER, group: dict(curve)}
    row = next(row for row in layers(NETWORK, options, loss, cost, plan, dense_ms=10.0) if row.group == group)
    return row.kind, row.why


def test_the_words_name_what_holds_a_group() -> None:
    group = max(OPTIONS, key=lambda g: len(OPTIONS[g]))
    kind, why = one(group, [16, 32, 48], 32, {16: 1e9, 32: 1.0, 48: 0.0})
    assert kind == "sensitive"
    assert "16 would lose 1e+09 more for" in why.replace("1.0e+09", "1e+09")
    assert "times the going rate" in why
    assert one(group, [32], 32, {32: 0.0}) == ("fixed", "too few channels to cut")
    kind, why = one(group, [16, 32], 16, {16: 2.0, 32: 0.5})
    assert kind == "floor"
    assert why.startswith("as narrow as allowed; 32 would win back 1.5 for")
    kind, why = one(group, [0, 16, 32], 0, {0: 2.0, 16: 1.0, 32: 0.0})
    assert kind == "removed"
    assert why == "its Bottleneck is taken out"
    assert one(group, [9, 12, 16, 32], 16, {9: 5.0, 12: 3.0, 16: 1.0, 32: 0.0})[1].endswith("9 and 12 would not be faster")


def test_a_narrower_width_that_is_slower_is_no_step() -> None:
    group = max(OPTIONS, key=lambda g: len(OPTIONS[g]))
    even, widths = replace(LAW, block=1), [16, 24, 32, 40, 48]
    step, widest = (
        even.at({**rest, group: 32}) - even.at({**rest, group: 24})
        for rest in (chosen(), {g: max(w) for g, w in OPTIONS.items()})
    )
    cost = replace(even, linear={**even.linear, Ragged(group, 1, 16): (step + widest) / 2})
    assert useful({**OPTIONS, group: widths}, [cost])[group] == widths  # beside the widest others 24 is faster than 32
    assert cost.at({**chosen(), group: 24}) > cost.at({**chosen(), group: 32})  # beside those chosen it is not
    kind, why = one(group, widths, 32, {16: 3.0, 24: 2.0, 32: 1.0, 40: 0.5, 48: 0.0}, cost)
    assert kind in {"balanced", "sensitive"}
    assert "16 would lose 2 more for" in why


def test_a_group_that_costs_no_time_is_free() -> None:
    idle = next(iter(OPTIONS))
    cost = Cost(
        8, LAW.constant, {g: k for g, k in LAW.linear.items() if g != idle}, {p: k for p, k in LAW.pair.items() if idle not in p}
    )
    assert one(idle, [4, 8, 12, 16], 16, {4: 3.0, 8: 2.0, 12: 1.0, 16: 0.0}, cost) == ("free", "narrower would not be faster")


def test_measured_points_are_plans_that_differ_in_one_group_alone() -> None:
    plan = chosen()
    steepest = stairs(OPTIONS, LAW, plan)[0]
    near = {**plan, steepest.group: steepest.widths[0]}
    far = {**near, next(g for g in plan if g != steepest.group and plan[g] != OPTIONS[g][0]): 4}
    timings = [timing(plan, 0.5), timing(near, 0.48), timing(far, 0.4)]
    (point,) = stairs(OPTIONS, LAW, plan, (), timings)[0].points
    assert point.width == steepest.widths[0]
    assert point.saved == pytest.approx(steepest.saved[steepest.widths.index(steepest.kept)] + 0.02)
    assert point.error == pytest.approx(0.001 * (0.5**2 + 0.48**2) ** 0.5)
    assert all(step.saved == sorted(step.saved, reverse=True) for step in stairs(OPTIONS, LAW, plan))


def test_the_front_falls_and_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [Limit("latency", LAW, SHARE)]
    first = front(OPTIONS, FISHER, limits)
    shares, costs = [[point[key] for point in first["points"]] for key in ("latency", "loss")]
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert costs == sorted(costs, reverse=True)
    assert all(point["latency"] <= point["share"] * (1 + 1e-6) for point in first["points"])
    assert all("latency budget" in why for why in first["failed"].values())  # below the narrowest network
    monkeypatch.setattr(fronts, "exact", None)
    assert front(OPTIONS, FISHER, limits, known=first) == first
    with pytest.raises(TypeError):
        front(OPTIONS, FISHER, [Limit("latency", LAW, 0.51)], known=first)


def test_what_is_beaten_in_both_leaves_the_front() -> None:
    points = [fronts.Point(0, latency, loss, None, 0) for latency, loss in ((0.4, 3.0), (0.5, 2.0), (0.6, 2.5), (0.7, 1.0))]
    assert [point.latency for point in best(points)] == [0.4, 0.5, 0.7]


def test_the_whole_explanation_is_json() -> None:
    import json

    found = explain(NETWORK, OPTIONS, FISHER, [Limit("latency", LAW, SHARE)], chosen(), dense_ms=10.0)
    assert json.loads(json.dumps(found)) == found
    assert found["staircase"]["widths"] == sum(map(len, OPTIONS.values()))
    assert found["predicted_loss"] == pytest.approx(sum(row["loss"] for row in found["layers"]))
    assert found["rate"] > 0


def test_plans_around_one_move_a_group_each() -> None:
    plan = chosen()
    around = near(OPTIONS, LAW, plan, (), groups=2, most=3)
    changed = [{group for group in plan if other[group] != plan[group]} for other in around]
    assert all(len(groups) == 1 for groups in changed)
    assert len(set.union(*changed)) == 2
    assert len(around) <= 6
    assert near(OPTIONS, LAW, plan, (), groups=0) == []
    points = stairs(OPTIONS, LAW, plan, (), [timing(other, LAW.at(other)) for other in (plan, *around)], most=1)[0]
    for point in points.points:  # measured as the law has it: on the model's own steps
        assert point.saved == pytest.approx(points.saved[points.widths.index(point.width)])
