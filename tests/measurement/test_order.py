"""Ranks of the order statistics that enclose a quantile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from toolchain.measurement import order

WHOLE: dict[tuple[float, int], tuple[int, int]] = {  # (q, n): whole ranks of the 95 % interval, which enclose the fractional ones
    (0.5, 100): (40, 61), (0.9, 100): (84, 96), (0.95, 100): (90, 100),
    (0.5, 1000): (469, 532), (0.9, 1000): (881, 919), (0.95, 1000): (936, 964), (0.99, 1000): (983, 997),
    (0.5, 10000): (4902, 5099), (0.9, 10000): (8941, 9059), (0.95, 10000): (9457, 9543), (0.99, 10000): (9880, 9920),
    (0.5, 6): (1, 6), (0.5, 8): (1, 8), (0.5, 9): (2, 8), (0.5, 12): (3, 10), (0.5, 15): (4, 12),
}  # fmt: skip
quantiles = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@pytest.mark.parametrize(("q", "n"), WHOLE)
def test_ranks_lie_within_one_of_the_whole_ones(q: float, n: int) -> None:
    ranks = order.interval_ranks(n, q)
    assert ranks is not None
    assert (math.floor(ranks[0]), math.ceil(ranks[1])) == WHOLE[q, n]


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_smallest_number_of_samples_with_an_interval(q: float, n: int) -> None:
    assert order.interval_ranks(n, q) is not None
    assert order.interval_ranks(n - 1, q) is None
    assert n - 1 < order.least_samples(q) < n


@given(st.floats(6, 1e5), quantiles)
def test_ranks_are_those_of_hutson(n: float, q: float) -> None:
    ranks = order.interval_ranks(n, q)
    if ranks is None:
        assert n < order.least_samples(q)
        return
    lower, upper = ranks
    assert 1 <= lower < q * n + 1
    assert q * n < upper <= n
    assert betainc(lower, n + 1 - lower, q) == pytest.approx(0.975, abs=1e-6)
    assert betainc(upper, n + 1 - upper, q) == pytest.approx(0.025, abs=1e-6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50).map(sorted), st.data())
def test_values_at_ranks_keep_their_order(ordered: list[float], data: st.DataObject) -> None:
    values = np.array(ordered)
    ranks = sorted(data.draw(st.lists(st.floats(1, len(ordered)), min_size=2, max_size=2)))
    low, high = (order.at_rank(values, rank) for rank in ranks)
    assert values[0] <= low
    assert low <= high + 1e-9
    assert high <= values[-1] + 1e-9
    assert order.at_rank(values, math.floor(ranks[0])) == values[math.floor(ranks[0]) - 1]


@pytest.mark.parametrize("rounds", [6, 7, 8, 9, 11, 15])
@pytest.mark.parametrize("shape", ["normal", "exponential", "standard_cauchy"])
def test_median_of_few_rounds_is_held_as_often_as_said(rounds: int, shape: str) -> None:
    rng = np.random.default_rng(11)
    made = np.sort(getattr(rng, shape)(size=(20000, rounds)), axis=1)
    ranks = order.interval_ranks(rounds, 0.5)
    assert ranks is not None
    low, high = ((1 - rank % 1) * made[:, int(rank) - 1] + rank % 1 * made[:, int(rank)] for rank in ranks)
    truth = math.log(2) if shape == "exponential" else 0.0
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.96, abs=0.0145)
