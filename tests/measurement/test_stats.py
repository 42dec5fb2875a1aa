from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import MeasurementError
from toolchain.measurement import stats
from toolchain.measurement.order import least_samples

samples_lists = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=400)


def test_percentile_lies_between_order_statistics() -> None:
    found = stats.percentile(np.random.default_rng(0).permutation(np.arange(1, 1001)), 0.9)
    assert (found.value, found.reason) == (900.0, None)
    assert found.low is not None
    assert found.high is not None
    assert 881 <= found.low < 882
    assert 918 < found.high <= 919


def test_percentile_without_a_bound_says_why() -> None:
    found = stats.percentile(np.arange(1, 101), 0.99)
    assert found.value is None
    assert found.low is None
    assert found.reason is not None
    assert "100 samples are too few: an interval of 95% takes 368" in found.reason


@given(samples_lists, st.sampled_from(sorted(stats.QUANTILES.values())))
def test_interval_encloses_the_estimate(samples: list[float], q: float) -> None:
    found = stats.percentile(samples, q)
    if found.value is None or found.low is None or found.high is None:
        assert len(samples) < least_samples(q)
    else:
        assert found.low <= found.value <= found.high
        assert found.value in samples


@given(samples_lists)
def test_order_of_samples_does_not_matter_to_percentiles(samples: list[float]) -> None:
    assert stats.percentile(samples, 0.5) == stats.percentile(samples[::-1], 0.5)
    assert stats.summarize(samples).p90.value == stats.summarize(samples[::-1]).p90.value
    assert stats.summarize(samples).slow_count == stats.summarize(samples[::-1]).slow_count


def test_interval_covers_the_true_median() -> None:
    rng, hits = np.random.default_rng(7), 0
    for _ in range(1000):
        found = stats.percentile(rng.lognormal(size=60), 0.5)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert hits >= 930  # 95 % or more by construction; 930 leaves room for chance


def test_summary_of_known_samples() -> None:
    samples = [10.0] * 50 + [11.0] * 50 + [40.0]
    found = stats.summarize(samples)
    assert (found.n, found.min, found.max, found.slow_count) == (101, 10.0, 40.0, 1)
    assert found.p50.value == 11.0
    assert found.drift == pytest.approx(0.1)
    assert found.sd == pytest.approx(np.std(samples, ddof=1))
    assert found.cv == pytest.approx(np.std(samples, ddof=1) / np.mean(samples))


def test_summary_of_one_sample_has_no_spread() -> None:
    found = stats.summarize([3.0])
    assert (found.sd, found.cv, found.lag1, found.drift, found.p50.value) == (None, None, None, None, None)


def test_autocorrelation() -> None:
    white = np.random.default_rng(0).normal(size=4000) + 10
    smooth = np.convolve(white, np.ones(5) / 5, mode="valid")
    assert abs(stats.lag1_autocorrelation([white]) or 1) < 0.05
    assert stats.lag1_autocorrelation([smooth]) == pytest.approx(0.8, abs=0.05)
    assert stats.lag1_autocorrelation([[1.0, 2.0] * 50]) == pytest.approx(-1, abs=0.02)
    assert stats.lag1_autocorrelation([[5.0] * 10]) is None


def test_neighbours_across_a_pause_are_none() -> None:
    assert stats.lag1_autocorrelation([[1.0, 2.0], [2.0, 1.0]] * 20) == pytest.approx(-1)
    assert stats.lag1_autocorrelation([[1.0], [2.0], [3.0]]) is None


def test_ratio_cancels_drift_that_both_sides_share() -> None:
    rounds = [[10.0 * (1 + i)] * 3 for i in range(9)]
    found = stats.ratio_of_rounds(rounds, [[ms / 2 for ms in one] for one in rounds])
    assert (found.value, found.low, found.high, found.rounds) == (2.0, 2.0, 2.0, 9)


def test_ratio_interval_lies_between_the_rounds_second_from_the_ends() -> None:
    found = stats.ratio_of_rounds([[float(i)] for i in range(1, 10)], [[1.0]] * 9)
    assert found.low is not None
    assert found.high is not None
    assert found.value == 5.0
    assert 2.0 < found.low < 2.2
    assert 7.8 < found.high < 8.0
    assert found.contains(2.3)
    assert not found.contains(2.0)


def test_ratio_of_few_rounds_has_no_interval() -> None:
    found = stats.ratio_of_rounds([[2.0]] * 5, [[1.0]] * 5)
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert found.reason is not None
    assert not found.contains(2.0)


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=6, max_size=20))
def test_ratio_turns_over_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    there = stats.ratio_of_rounds([[a] for a, _ in pairs], [[b] for _, b in pairs])
    back = stats.ratio_of_rounds([[b] for _, b in pairs], [[a] for a, _ in pairs])
    assert there.low == pytest.approx(1 / back.high) if back.high else False
    assert there.high == pytest.approx(1 / back.low) if back.low else False


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_unusable_samples_are_refused(samples: list[float]) -> None:
    with pytest.raises(MeasurementError):
        stats.summarize(samples)


@pytest.mark.parametrize(("a", "b"), [([], []), ([[1.0]], [[1.0], [2.0]]), ([[1.0]], [[0.0]])])
def test_unusable_rounds_are_refused(a: list[list[float]], b: list[list[float]]) -> None:
    with pytest.raises(MeasurementError):
        stats.ratio_of_rounds(a, b)
