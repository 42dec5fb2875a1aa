from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import MeasurementError
from toolchain.measurement import stats

TABLE: dict[int, list[tuple[int, int] | None]] = {  # n: ranks (l, u) of the 95 % interval of p50, p90, p95, p99
    100: [(40, 61), (84, 96), (90, 100), None],
    300: [(133, 168), (259, 281), (277, 293), None],
    1000: [(469, 532), (881, 919), (936, 964), (983, 997)],
    3000: [(1446, 1555), (2667, 2733), (2826, 2874), (2959, 2981)],
    10000: [(4902, 5099), (8941, 9059), (9457, 9543), (9880, 9920)],
}
samples_lists = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=400)


@pytest.mark.parametrize("n", TABLE)
@pytest.mark.parametrize("index", range(4))
def test_ranks_of_the_interval(n: int, index: int) -> None:
    q, expected = list(stats.QUANTILES.values())[index], TABLE[n][index]
    lower, upper = stats.interval_indices(n, q)
    assert (upper is None) if expected is None else ((lower, upper) == expected)


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_smallest_number_of_samples_with_an_interval(q: float, n: int) -> None:
    assert None not in stats.interval_indices(n, q)
    assert None in stats.interval_indices(n - 1, q)


@pytest.mark.parametrize(("rounds", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4)])
def test_ranks_of_the_median_of_rounds(rounds: int, rank: int) -> None:
    assert stats.interval_indices(rounds, 0.5) == (rank, rounds + 1 - rank)


def test_percentile_is_an_order_statistic() -> None:
    found = stats.percentile(np.random.default_rng(0).permutation(np.arange(1, 1001)), 0.9)
    assert (found.value, found.low, found.high, found.reason) == (900.0, 881.0, 919.0, None)


def test_percentile_without_a_bound_says_why() -> None:
    found = stats.percentile(np.arange(1, 101), 0.99)
    assert found.value is None
    assert found.low is None
    assert found.reason is not None
    assert "100 samples" in found.reason


@given(samples_lists, st.sampled_from(sorted(stats.QUANTILES.values())))
def test_interval_encloses_the_estimate(samples: list[float], q: float) -> None:
    found = stats.percentile(samples, q)
    if found.value is None or found.low is None or found.high is None:
        assert None in stats.interval_indices(len(samples), q)
    else:
        assert found.low <= found.value <= found.high
        assert {found.low, found.value, found.high} <= set(samples)


@given(samples_lists)
def test_order_of_samples_does_not_matter_to_percentiles(samples: list[float]) -> None:
    forward, backward = stats.summarize(samples), stats.summarize(samples[::-1])
    assert (forward.p50, forward.p90, forward.slow_count) == (backward.p50, backward.p90, backward.slow_count)


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
    assert abs(stats.lag1_autocorrelation(white) or 1) < 0.05
    assert stats.lag1_autocorrelation(smooth) == pytest.approx(0.8, abs=0.05)
    assert stats.lag1_autocorrelation([1.0, 2.0] * 50) == pytest.approx(-1, abs=0.02)
    assert stats.lag1_autocorrelation([5.0] * 10) is None


def test_ratio_cancels_drift_that_both_sides_share() -> None:
    rounds = [[10.0 * (1 + i)] * 3 for i in range(9)]
    found = stats.ratio_of_rounds(rounds, [[ms / 2 for ms in one] for one in rounds])
    assert (found.value, found.low, found.high, found.rounds) == (2.0, 2.0, 2.0, 9)


def test_ratio_interval_is_an_order_statistic_of_the_rounds() -> None:
    found = stats.ratio_of_rounds([[float(i)] for i in range(1, 10)], [[1.0]] * 9)
    assert (found.value, found.low, found.high) == (5.0, 2.0, 8.0)
    assert found.contains(2.0)
    assert not found.contains(1.9)


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
