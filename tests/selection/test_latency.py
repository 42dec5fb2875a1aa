"""The model finds a known law from noisy timings, with its staircase, and says how good it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.pruning.cases import subject
from toolchain.errors import MeasurementError
from toolchain.pruning.groups import Network
from toolchain.selection import cost as costs
from toolchain.selection import latency
from toolchain.selection.cost import Cost, Counting, macs
from toolchain.selection.latency import Array
from toolchain.selection.sampling import near_plans, spread_plans
from toolchain.selection.shapes import engine_convs
from toolchain.selection.table import profile_prior

NETWORK: Network = subject()[2]
OPTIONS = {g.name: list(range(4, g.channels + 1, 4)) or [g.channels] for g in NETWORK.free}
DENSE = {g.name: g.channels for g in NETWORK.free}


def law(counting: Counting) -> Cost:
    """0.2 constant, 0.8 by multiply-adds of padded widths; and what is left over of blocks, if that counts, 0.01 each."""
    sides, convs = costs.sides(NETWORK, exact_reads=counting.exact_reads), engine_convs(NETWORK)
    left = costs.ragged(sides, counting.ragged)
    work = [(float(convs[name].macs_per_pair), *both) for name, both in sides.items()]
    whole = costs.total(counting.block, 0.0, [], work).at(DENSE)
    return costs.scaled(
        costs.total(counting.block, 0.0, [(0.0125 * whole, one) for one in left.values()], work), 0.8 / whole, 0.2
    )


@pytest.mark.parametrize("counting", [Counting(4), Counting(8), Counting(16, True), Counting(ragged=16), Counting(16, True, 16)])
def test_a_known_law_is_learnt(counting: Counting) -> None:
    truth, rng = law(counting), np.random.default_rng(0)
    plans = spread_plans(OPTIONS, 80, seed=1)
    noisy = [truth.at(plan) * (1 + 0.005 * rng.standard_normal()) for plan in plans]
    model = latency.fit(NETWORK, plans, noisy)
    fresh = spread_plans(OPTIONS, 40, seed=2)
    seen = latency.quality(np.array([model.cost.at(p) for p in fresh]), np.array([truth.at(p) for p in fresh]))
    assert seen.mape < 0.02
    assert seen.kendall_tau > 0.95
    found = model.cost.counting
    assert found._replace(block=model.cost.size("any", 4) if counting.block > 1 else 1) == counting  # 1 and 4 are one here
    assert abs(model.held_out.mape - seen.mape) < 0.02  # what the model says of itself is about right
    assert all(k >= 0 for k in (*model.cost.linear.values(), *model.cost.pair.values()))


def test_profiles_help_where_timings_are_few_and_harm_little_where_they_are_wrong() -> None:
    """Layers whose cost has nothing to do with their multiply-adds, which only profiles can tell beforehand."""
    rng, sides = np.random.default_rng(3), costs.sides(NETWORK)
    shares, others = (dict(zip(sides, rng.dirichlet(np.full(3 * len(sides), 0.3)).reshape(-1, 3), strict=True)) for _ in range(2))
    whole = Cost().sizes(DENSE)
    dense = {name: (reads.at(whole), writes.at(whole)) for name, (reads, writes) in sides.items()}

    def parts(of: dict[str, Any], name: str) -> tuple[float, float, float]:
        (a, b), (x, y, z) = dense[name], of[name]
        return x / a, y / b, z / a / b

    def profile(of: dict[str, Any], plan: dict[str, int]) -> dict[str, float]:
        at = Cost().sizes(plan)
        sizes = {name: (reads.at(at), writes.at(at)) for name, (reads, writes) in sides.items()}
        return {name: float(np.dot(parts(of, name), (r, w, r * w))) for name, (r, w) in sizes.items()}

    def measured(plans: list[dict[str, int]]) -> Array:
        return np.array([0.2 + 0.8 * sum(profile(shares, plan).values()) for plan in plans])

    plans, fresh = spread_plans(OPTIONS, 25, seed=4), spread_plans(OPTIONS, 40, seed=5)
    right, wrong = (profile_prior(NETWORK, plans[:12], [profile(of, p) for p in plans[:12]]) for of in (shares, others))
    assert sum(map(sum, right.values())) == pytest.approx(1)

    def off(priors: dict[str, latency.Prior]) -> tuple[str, float]:
        noisy = measured(plans) * (1 + 0.005 * rng.standard_normal(len(plans)))
        model = latency.fit(NETWORK, plans, noisy.tolist(), priors)
        return model.prior, latency.quality(np.array([model.cost.at(p) for p in fresh]), measured(fresh)).mape

    (plain, bare), (name, better), (_, misled) = off({}), off({"profiles": right}), off({"profiles": wrong})
    assert (plain, name) == (latency.PLAIN, "profiles")
    assert better < 0.6 * bare
    assert misled < 1.3 * bare


def test_too_few_plans_are_refused() -> None:
    plans = spread_plans(OPTIONS, 5, seed=0)
    with pytest.raises(MeasurementError, match="too few"):
        latency.fit(NETWORK, plans, [1.0] * 5)


def test_quality_knows_bias_and_order() -> None:
    found = latency.quality(np.array([1.1, 2.2, 3.3]), np.array([1.0, 2.0, 3.0]))
    assert (found.mape, found.bias, found.kendall_tau) == pytest.approx((0.1, 0.1, 1.0))
    assert latency.quality(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])).kendall_tau == -1


def test_spread_plans_cover_small_and_large_and_repeat() -> None:
    plans = spread_plans(OPTIONS, 60, seed=3)
    shares = [macs(NETWORK).at(p) / macs(NETWORK).at(DENSE) for p in plans]
    assert min(shares) < 0.2
    assert max(shares) > 0.8
    assert plans == spread_plans(OPTIONS, 60, seed=3) != spread_plans(OPTIONS, 60, seed=4)
    assert all(plan[g] in widths for plan in plans for g, widths in OPTIONS.items())


def test_near_plans_stay_near() -> None:
    start = {g: widths[len(widths) // 2] for g, widths in OPTIONS.items()}
    for plan in near_plans(start, OPTIONS, 20, seed=0):
        assert all(abs(OPTIONS[g].index(plan[g]) - OPTIONS[g].index(start[g])) <= 2 for g in OPTIONS)
