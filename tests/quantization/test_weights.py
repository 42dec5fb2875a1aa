"""No two neighbouring weights can overflow 16 bits, and nothing more is given away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toolchain.quantization.weights import LARGEST, channel_limits

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([1, 3]))
weights = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))


def rounded(weight: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(out, kernel positions and channels) integers, channels innermost."""
    scale = limits.astype(np.float64) / LARGEST
    whole = np.clip(np.round(weight / scale[:, None, None, None]), -128, 127)
    return np.asarray(whole.transpose(0, 2, 3, 1).reshape(len(weight), -1).astype(np.int64))


@given(weights)
def test_no_pair_saturates(weight: np.ndarray) -> None:
    rows = rounded(weight, channel_limits(weight, saturating=True))
    assert np.abs(rows).max() <= 127
    if rows.shape[1] > 1:
        pairs = rows[:, 1:] + rows[:, :-1]
        assert 255 * pairs.max() <= 32767
        assert 255 * pairs.min() >= -32768


@given(weights)
def test_without_saturation_the_largest_weight_is_127(weight: np.ndarray) -> None:
    limits = channel_limits(weight, saturating=False)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    np.testing.assert_allclose(limits[largest > 0], largest[largest > 0], atol=1e-35, rtol=1e-6)
    assert (limits > 0).all()


def test_never_coarser_than_seven_bits_and_finer_on_real_weights() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (32, 64, 3, 3)).astype(np.float32)
    limits = channel_limits(weight, saturating=True)
    seven_bits = np.abs(weight).reshape(32, -1).max(axis=1) * LARGEST / 63.5
    assert (limits <= seven_bits * 1.001).all()
    assert np.log2(seven_bits / limits).mean() > 0.4


def test_a_lone_weight_uses_all_bits() -> None:
    weight = np.zeros((1, 4, 1, 1), np.float32)
    weight[0, 2] = -3
    assert channel_limits(weight, saturating=True) == pytest.approx([3])
    assert channel_limits(np.zeros((2, 1, 1, 1), np.float32), saturating=True).min() > 0
