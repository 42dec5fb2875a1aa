"""The histogram loses nothing; each method does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toolchain.errors import QuantizationError
from toolchain.quantization.ranges import BINS, CHUNK, LARGEST, METHODS, MOMENTUM, Histogram, Observed
from toolchain.quantization.silu import clip_before_silu

NEAREST = 2.0**-20  # values nearer to 0 fall on either side of the border there, as they are rounded
numbers = st.floats(-1e6, 1e6, width=32).map(lambda value: value if abs(value) >= NEAREST else 0.0)
values = arrays(np.float32, st.integers(1, 200), elements=numbers)


def counts_at_once(everything: np.ndarray, limit: float) -> np.ndarray:
    """The histogram over -limit..limit of values that are all in memory."""
    index = np.floor(everything.astype(np.float64) * (BINS / (2 * limit)) + BINS / 2).astype(int)
    return np.bincount(index, minlength=BINS)


@given(st.lists(values, min_size=1, max_size=5))
def test_growing_histogram_equals_one_made_at_once(batches: list[np.ndarray]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch, float(np.abs(batch).max()))
    everything = np.concatenate(batches)
    assert histogram.counts.sum() == everything.size
    if histogram.limit:
        assert histogram.limit > np.abs(everything).max()
        assert (histogram.counts == counts_at_once(everything, histogram.limit)).all()


def test_order_of_growth_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, 5000).astype(np.float32), rng.normal(0, 100, 5000).astype(np.float32)
    up, down = Histogram(), Histogram()
    for histogram, order in ((up, (small, large)), (down, (large, small))):
        for batch in order:
            histogram.add(batch, float(np.abs(batch).max()))
    assert up.limit == down.limit
    assert (up.counts == down.counts).all()


def observed(*pictures: np.ndarray) -> Observed:
    seen = Observed("tensor")
    for picture in pictures:
        seen.add(picture.astype(np.float32))
    return seen


def test_every_value_is_counted_also_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    large = rng.normal(0, 1, (4, 50, 50)).astype(np.float32)
    whole = observed(large)
    monkeypatch.setattr("toolchain.quantization.ranges.CHUNK", 999)
    parts = observed(large)
    assert whole.histogram.counts.sum() == parts.histogram.counts.sum() == large.size
    assert (whole.histogram.counts == parts.histogram.counts).all()


def test_a_count_of_one_bin_stays_exact() -> None:
    """OpenCV counts in float32, which forgets ones above 2^24."""
    assert CHUNK <= 1 << 24
    seen = observed(np.full(CHUNK + 1, 0.5, np.float32))
    assert seen.histogram.counts.max() == CHUNK + 1


def test_moving_average_is_the_textbook_one() -> None:
    seen = observed(np.array([0.0, 1.0]), np.array([-1.0, 2.0]), np.array([-2.0, 9.0]))
    low = MOMENTUM * (MOMENTUM * 0.0 + (1 - MOMENTUM) * -1.0) + (1 - MOMENTUM) * -2.0
    high = MOMENTUM * (MOMENTUM * 1.0 + (1 - MOMENTUM) * 2.0) + (1 - MOMENTUM) * 9.0
    assert METHODS["moving-average"](seen, 0) == pytest.approx((low, high))


def test_percentile_cuts_outliers_and_agrees_with_numpy() -> None:
    rng = np.random.default_rng(0)
    body = rng.normal(0, 1, 20000)
    body[0] = 500.0
    low, high = METHODS["percentile"](observed(body), 99.9)
    bin_width = 2 * 512 / BINS
    assert low == pytest.approx(np.percentile(body, 0.1), abs=2 * bin_width)
    assert high == pytest.approx(np.percentile(body, 99.9), abs=2 * bin_width)


def test_percentile_100_is_minmax() -> None:
    body = np.random.default_rng(0).normal(0, 1, 1000)
    seen = observed(body)
    assert METHODS["percentile"](seen, 100.0) == METHODS["minmax"](seen, 0)


def test_entropy_is_not_set_by_one_far_value() -> None:
    body = np.random.default_rng(0).normal(0, 1, 30000)
    body[0] = 30.0
    low, high = METHODS["entropy"](observed(body), 0)
    assert 2 < high < 25
    assert -6 < low < -2


def test_mse_is_the_best_of_a_plain_search() -> None:
    body = np.random.default_rng(0).standard_t(4, 20000).astype(np.float32)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(((body - (low + np.clip(np.round((body - low) / step), 0, 255) * step)) ** 2).mean())

    seen = observed(body)
    shrink = np.linspace(0.3, 1, 15)
    best = min(error(seen.low * a, seen.high * b) for a in shrink for b in shrink)
    assert best < error(seen.low, seen.high)
    assert error(*METHODS["mse"](seen, 0)) <= 1.02 * best


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, LARGEST, -LARGEST])
def test_values_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(QuantizationError, match="tensor: "):
        observed(np.array([0.0, bad]))


def silu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-x)))


@settings(max_examples=25)
@given(st.floats(-200, -1), st.floats(0.5, 50))
def test_clip_before_silu_never_costs(low: float, high: float) -> None:
    body = np.random.default_rng(0).uniform(low, high, 4000)
    seen = observed(body)
    wide = (seen.low, seen.high)
    narrow = clip_before_silu(seen, wide)

    def error(pair: tuple[float, float]) -> float:
        step = (pair[1] - pair[0]) / 255
        zero = np.round(-pair[0] / step)
        return float(((silu((np.clip(np.round(body / step) + zero, 0, 255) - zero) * step) - silu(body)) ** 2).mean())

    assert narrow[1] == wide[1]
    assert wide[0] <= narrow[0] <= 0
    assert error(narrow) <= error(wide) * 1.05  # 5 %: the histogram's bins stand for the values
    if low < -100:
        assert narrow[0] > -30


def test_clip_before_silu_keeps_one_sided_tensors() -> None:
    assert clip_before_silu(observed(np.array([0.0, 3.0])), (0.0, 3.0)) == (0.0, 3.0)
    assert clip_before_silu(observed(np.array([-3.0, -1.0])), (-3.0, 0.0)) == (-3.0, 0.0)
