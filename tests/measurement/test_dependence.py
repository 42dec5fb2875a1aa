"""Intervals of samples that depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri

from toolchain.measurement import dependence, stats

Passes = list[NDArray[np.float64]]


def smooth(rng: np.random.Generator, passes: int, runs: int, keep: float) -> Passes:
    """Log-normal latencies around 1 whose neighbours are correlated by `keep`."""
    from scipy.signal import lfilter

    noise = rng.normal(size=(passes, runs)) * np.sqrt(1 - keep**2)
    noise[:, 0] = rng.normal(size=passes)
    return list(np.exp(0.1 * lfilter([1], [1, -keep], noise, axis=1)))


def levels(rng: np.random.Generator, passes: int, runs: int, spread: float) -> Passes:
    """Independent inside a pass; the passes differ in level."""
    return [np.exp(0.1 * rng.normal(size=runs) + spread * rng.normal()) for _ in range(passes)]


def summary(passes: Passes) -> stats.Summary:
    return stats.summarize(np.concatenate(passes), [len(one) for one in passes])


@pytest.mark.parametrize(
    "make", [lambda rng: smooth(rng, 9, 150, 0.8), lambda rng: levels(rng, 9, 150, 0.02)], ids=["lag", "level"]
)
def test_interval_covers_where_that_of_independent_samples_does_not(make) -> None:  # type: ignore[no-untyped-def]
    rng, blocks, plain = np.random.default_rng(3), 0, 0
    for _ in range(300):
        passes = make(rng)
        found, naive = summary(passes).p50, stats.percentile(np.concatenate(passes), 0.5)
        assert found.low is not None
        assert found.high is not None
        assert naive.low is not None
        assert naive.high is not None
        blocks += found.low <= 1.0 <= found.high
        plain += naive.low <= 1.0 <= naive.high
    assert blocks >= 273  # 95 %, less three standard deviations of 300 trials
    assert plain < 240


def test_independent_samples_are_told_from_others() -> None:
    rng = np.random.default_rng(5)
    calm = [summary(levels(rng, 9, 100, 0.0)) for _ in range(50)]
    assert {one.interval for one in calm} == {"blocks"}
    assert sum(one.dependence is None for one in calm) >= 46  # once in a hundred times the passes differ as much by chance
    assert {summary(smooth(rng, 9, 100, 0.8)).dependence for _ in range(10)} == {"neighbours"}
    assert {summary(levels(rng, 9, 100, 0.1)).dependence for _ in range(10)} <= {"neighbours", "passes"}
    assert summary([np.full(50, 1.0 + 0.01 * i) + 1e-4 * rng.normal(size=50) for i in range(9)]).dependence == "neighbours"


def test_passes_that_differ_are_seen_though_neighbours_hardly_are_alike() -> None:
    found = summary(levels(np.random.default_rng(0), 9, 1000, 0.02))
    assert found.lag1 is not None
    assert found.lag1 < stats.LAG1_LIMIT
    assert found.dependence == "passes"


@pytest.mark.parametrize("name", ["p50", "p90", "p95"])
def test_independent_samples_are_not_given_more_than_said(name: str) -> None:
    rng, q, held = np.random.default_rng(8), stats.QUANTILES[name], 0
    truth = float(np.exp(0.1 * ndtri(q)))
    for _ in range(600):
        one: stats.Percentile = getattr(summary(levels(rng, 11, 20, 0.0)), name)
        assert one.low is not None
        assert one.high is not None
        held += one.low <= truth <= one.high
    assert 0.925 <= held / 600 <= 0.975  # 95 %, give or take nearly three standard deviations


def test_only_ranks_count() -> None:
    passes = levels(np.random.default_rng(2), 9, 60, 0.02)
    plain, bent = summary(passes), summary([one**3 for one in passes])
    assert bent.design_effect == plain.design_effect
    assert dependence.worth([one**3 for one in passes], 0.9) == dependence.worth(passes, 0.9)
    assert bent.p90.value == pytest.approx((plain.p90.value or 0) ** 3)


@given(st.integers(6, 12), st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 1000))
def test_intervals_enclose_their_estimates(count: int, runs: int, keep: float, seed: int) -> None:
    found = summary(smooth(np.random.default_rng(seed), count, runs, keep))
    for name, q in stats.QUANTILES.items():
        one: stats.Percentile = getattr(found, name)
        if one.low is None or one.high is None:
            assert one.reason
            assert q > 0.5
        else:
            assert one.value is not None
            assert found.min <= one.low <= one.value <= one.high <= found.max


@given(st.floats(1, 50), st.floats(0, 0.99), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_more_dependence_is_never_worth_more(effect: float, lag1: float, q: float) -> None:
    here = dependence.likely_worth(900, 9, effect, lag1, q)
    assert 0 < here <= 900
    assert dependence.likely_worth(900, 9, effect * 1.5, lag1, q) <= here
    assert dependence.likely_worth(900, 9, effect, lag1 + 0.01, q) <= here


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_chain_is_worth_what_a_long_one_shows(q: float, keep: float) -> None:
    made = np.array(smooth(np.random.default_rng(4), 2000, 400, keep))
    below = (made <= np.exp(0.1 * ndtri(q))).sum(axis=1)
    effect = below.var() / (400 * q * (1 - q))
    assert 1e9 / dependence.likely_worth(10**9, 9, 1.0, keep, q) == pytest.approx(effect, rel=0.12)


def test_equally_correlated_blocks_are_worth_what_many_show() -> None:
    made = np.array(levels(np.random.default_rng(4), 4000, 100, 0.05)) / 1.0
    spread = float(np.hypot(0.1, 0.05))
    effects = {q: float((made <= np.exp(spread * ndtri(q))).sum(axis=1).var() / (100 * q * (1 - q))) for q in (0.5, 0.95)}
    assert 1e6 / dependence.likely_worth(10**6, 10**4, effects[0.5], 0.0, 0.95) == pytest.approx(effects[0.95], rel=0.1)


def test_percentile_that_so_few_independent_samples_could_not_bound_is_left_out() -> None:
    found = summary(smooth(np.random.default_rng(0), 9, 100, 0.95))
    assert found.interval == "blocks"
    assert found.p99.value is None
    assert found.p99.reason is not None
    assert "900 samples that depend on each other and tell as much as" in found.p99.reason
    assert "takes 368" in found.p99.reason
    assert found.p50.low is not None


def test_too_few_blocks_give_no_interval() -> None:
    found = summary(smooth(np.random.default_rng(0), 2, 100, 0.8))
    assert found.interval == "none"
    assert found.design_effect is None
    assert found.p50.value is not None
    assert found.p50.low is None
    assert "2 blocks" in str(found.p50.reason)


def test_long_passes_are_cut_into_stretches_of_a_second() -> None:
    pieces = dependence.blocks_of([np.full(1000, 10.0)] * 2, 1000.0)
    assert [len(piece) for piece in pieces] == [100] * 20
    assert [len(piece) for piece in dependence.blocks_of([np.full(30, 10.0)] * 9, 1000.0)] == [30] * 9
    assert len(dependence.blocks_of([np.full(5, 10.0)], 1000.0)) == 1


def test_design_effect_of_known_blocks() -> None:
    low, high = np.full(10, 1.0), np.full(10, 2.0)
    assert dependence.design_effect([low, high] * 5) == pytest.approx(10 * 10 / 9)  # each block is worth one sample
    assert dependence.design_effect([np.array([1.0, 2.0])] * 10) == 0
    assert dependence.design_effect([low, high]) is None


def test_steady_clock_ticks_are_no_problem() -> None:
    found = stats.summarize([5.0] * 600, [100] * 6)
    assert (found.p50.value, found.p50.low, found.p50.high) == (5.0, 5.0, 5.0)
