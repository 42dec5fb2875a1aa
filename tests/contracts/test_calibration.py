"""Every calibration method finds in a stream what a plain computation finds with all values in memory.

A method added to `METHODS` needs a reference here: the textbook's steps on one array.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from toolchain.quantization.ranges import BINS, CANDIDATES, METHODS, MOMENTUM, NARROWEST, Observed

RELATIVE = 1e-3
PERCENTILE = 99.9
Pictures = list[np.ndarray]
Pair = tuple[float, float]


def bins_of(pictures: Pictures) -> tuple[np.ndarray, float]:
    """(counts, width of a bin): all values at once, over the smallest power of two above them."""
    values = np.concatenate(pictures).astype(np.float64)
    largest = np.abs(values).max()
    limit = 2.0 ** max(math.floor(math.log2(largest)) + 1, -100) if largest else 1.0
    width = 2 * limit / BINS
    return np.bincount(np.floor(values / width + BINS / 2).astype(int), minlength=BINS), width


def extremes(pictures: Pictures) -> Pair:
    values = np.concatenate(pictures)
    return float(values.min()), float(values.max())


def reference_moving_average(pictures: Pictures) -> Pair:
    low, high = extremes(pictures[:1])
    for picture in pictures[1:]:
        low = MOMENTUM * low + (1 - MOMENTUM) * float(picture.min())
        high = MOMENTUM * high + (1 - MOMENTUM) * float(picture.max())
    return low, high


def reference_percentile(pictures: Pictures) -> Pair:
    ordered = np.sort(np.concatenate(pictures))
    cut = ordered.size - max(math.ceil(ordered.size * PERCENTILE / 100 - 1e-6), 1)
    return float(ordered[cut]), float(ordered[ordered.size - 1 - cut])


def reference_mse(pictures: Pictures) -> Pair:
    counts, width = bins_of(pictures)
    low, high = extremes(pictures)
    low, high = min(low, 0.0), max(high, 0.0)

    def error(low: float, high: float) -> float:
        total, step = 0.0, (high - low) / 255
        for index in np.flatnonzero(counts):
            value = (index + 0.5 - BINS / 2) * width
            level = min(max(round((value - low) / step), 0), 255)
            total += counts[index] * (value - low - level * step) ** 2
        return total

    shrunk = [1 - (1 - NARROWEST) * i / (CANDIDATES - 1) for i in range(CANDIDATES)]
    if high > 0:
        high *= min(shrunk, key=lambda s: (error(low, high * s), s))
    if low < 0:
        low *= min(shrunk, key=lambda s: (error(low * s, high), s))
    return low, high


def reference_entropy(pictures: Pictures) -> Pair:
    counts, width = bins_of(pictures)
    everything = int(counts.sum())
    low, high = extremes(pictures)
    largest = max(abs(low), abs(high))

    def divergence(start: float, end: float) -> float:
        first = max(math.ceil(start / width + BINS / 2), 1) - 1
        last = min(max(math.ceil(end / width + BINS / 2), 1), BINS)
        true = [int(n) for n in counts[first:last]]
        levels: dict[int, list[int]] = {}
        for position, number in enumerate(true):
            if number:
                levels.setdefault(position * 256 // len(true), []).append(number)
        coarse = [sum(group) / len(group) for position, number in enumerate(true)
                  if number for group in [levels[position * 256 // len(true)]]]  # fmt: skip
        total = sum(coarse) or 1.0
        spread = iter(coarse)
        merged = [next(spread) / total if number else 0.0 for number in true]
        true[0] += int(counts[:first].sum())
        true[-1] += int(counts[last:].sum())
        shares = [(n / everything, q) for n, q in zip(true, merged, strict=True) if n]
        return sum(p * math.log(p / max(q, 1e-9)) for p, q in shares)

    best = (math.inf, largest)
    for i in range(CANDIDATES):
        limit = largest * (1 - (1 - NARROWEST) * i / (CANDIDATES - 1))
        if max(low, -limit) < min(high, limit):
            best = min(best, (divergence(max(low, -limit), min(high, limit)), limit))
    return max(low, -best[1]), min(high, best[1])


REFERENCES: dict[str, Callable[[Pictures], Pair]] = {
    "minmax": extremes,
    "moving-average": reference_moving_average,
    "percentile": reference_percentile,
    "entropy": reference_entropy,
    "mse": reference_mse,
}


def streamed(method: str, pictures: Pictures) -> Pair:
    seen = Observed("tensor")
    for picture in pictures:
        seen.add(picture)
    return METHODS[method](seen, PERCENTILE)


def same(found: Pair, want: Pair, bin_width: float) -> bool:
    return all(abs(a - b) <= max(RELATIVE * abs(b), bin_width) for a, b in zip(found, want, strict=True))


def test_every_method_has_a_reference() -> None:
    assert set(REFERENCES) == set(METHODS)


small = st.lists(arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e5, 1e5, width=32)), min_size=1, max_size=4)


@pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile"])
@given(pictures=small)
def test_any_values(method: str, pictures: Pictures) -> None:
    """Within 1e-3 of the threshold, or one bin where a single far value makes the threshold small beside it."""
    assert same(streamed(method, pictures), REFERENCES[method](pictures), bins_of(pictures)[1])


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(["gauss", "one-sided", "silu", "heavy tail", "zeros and tail"]),
    scale=st.floats(1e-4, 1e4), pictures=st.integers(1, 4),
)  # fmt: skip
def test_activations(method: str, seed: int, shape: str, scale: float, pictures: int) -> None:
    """As networks make them; no bin is needed to excuse a difference."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, (pictures, 2000)) if shape == "heavy tail" else rng.normal(0, 1, (pictures, 2000))
    x = {"one-sided": np.abs(x), "silu": x / (1 + np.exp(-x)), "zeros and tail": np.maximum(x, 0)}.get(shape, x) * scale
    parts = [row.astype(np.float32) for row in x]
    found, want = streamed(method, parts), REFERENCES[method](parts)
    allowed = 0.0 if method in ("minmax", "moving-average", "mse", "entropy") else bins_of(parts)[1]
    assert same(found, want, allowed), (found, want)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_pictures_matters_only_to_the_moving_average(method: str) -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.normal(0, s, 500)).astype(np.float32) for s in (1, 30, 0.1)]
    both = streamed(method, parts), streamed(method, parts[::-1])
    assert (both[0] == both[1]) == (method != "moving-average")
