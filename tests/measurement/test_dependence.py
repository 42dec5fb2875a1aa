"""Intervals of samples that depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

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


def test_independent_samples_keep_their_order_statistics() -> None:
    rng, kept = np.random.default_rng(5), 0
    for _ in range(50):
        passes = levels(rng, 9, 100, 0.0)
        found = summary(passes)
        if found.interval == "order statistics":
            kept += 1
            assert found.p50 == stats.percentile(np.concatenate(passes), 0.5)
            assert found.design_effect is not None
            assert found.design_effect <= 1
    assert kept > 15  # about every second one; the others get the slightly wider interval of blocks


def test_percentile_that_so_few_independent_samples_could_not_bound_is_left_out() -> None:
    found = summary(smooth(np.random.default_rng(0), 9, 100, 0.95))
    assert found.interval == "blocks"
    assert found.p99.value is None
    assert found.p99.reason is not None
    assert "tell as much as" in found.p99.reason
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
