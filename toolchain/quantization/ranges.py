"""From what was seen of a tensor to the range INT8 covers. Values outside the range are clipped, inside they are rounded.

What is kept of a tensor does not grow with the number of pictures: extremes, their moving average, and a histogram of every
value. The histogram is the one that all values at once would have given, count for count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from toolchain.errors import QuantizationError

BINS = 1 << 14  # over -limit..limit; at least 16 bins for each of the 256 levels of a one-sided tensor
CHUNK = 1 << 23  # values counted at a time: OpenCV counts in float32, exact up to 2^24
CACHED = 1 << 17  # values worked on at a time: half a megabyte, which stays in the second cache
LARGEST = 2.0**127  # limits are float32 for OpenCV
MOMENTUM = 0.9  # of the moving average, per picture
LEVELS = 255  # steps of an 8-bit range
CANDIDATES = 100  # clipping points tried by `entropy` and `mse`
NARROWEST = 0.3  # part of the extremes below which no clipping point is tried

Range = tuple[float, float]
Floats = NDArray[np.float32]


@dataclass
class Histogram:
    """Counts over -limit..limit, a power of two. When a value falls outside, the limit doubles and pairs of bins merge."""

    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: Floats, largest: float) -> None:
        """Count `values`, none of which exceeds `largest` in absolute value."""
        if largest == 0.0 and self.limit == 0.0:
            self.counts[BINS // 2] += values.size  # zeros belong to the bin that starts at zero, whatever the limit becomes
            return
        if self.limit == 0.0:
            self.limit = float(2.0 ** max(np.floor(np.log2(largest)) + 1, -100.0))
        while largest >= self.limit:
            self._double()
        flat = values.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            self.counts += self._counted(flat[start : start + CHUNK])

    def _counted(self, values: Floats) -> NDArray[np.int64]:
        """Their counts. OpenCV counts integers faster than floats, and by a power of two the scaling is exact."""
        bins, per_unit = np.empty(values.size, np.int16), np.float32(BINS / 2 / self.limit)
        for start in range(0, values.size, CACHED):
            scaled = values[start : start + CACHED] * per_unit
            bins[start : start + CACHED] = np.floor(scaled, out=scaled)
        from_first = bins.view(np.uint16)
        from_first += np.uint16(BINS // 2)  # wraps round: -limit is in bin 0
        return cv2.calcHist([from_first.reshape(1, -1)], [0], None, [BINS], [0, BINS]).ravel().astype(np.int64)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts[:] = 0
        self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
        self.limit *= 2

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) borders of the bins."""
        return np.linspace(-self.limit, self.limit, BINS + 1)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) middles of the bins."""
        edges = self.edges
        return np.asarray((edges[:-1] + edges[1:]) / 2, dtype=np.float64)


@dataclass
class Observed:
    """Everything remembered of one tensor."""

    name: str
    low: float = 0.0
    high: float = 0.0
    average_low: float = 0.0
    average_high: float = 0.0
    pictures: int = 0
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, values: Floats) -> None:
        """See the tensor for one more picture.

        Raises:
            QuantizationError: a value is not a number, infinite, or as good as that.
        """
        low, high = float(values.min()), float(values.max())
        largest = max(abs(low), abs(high))
        if not largest < LARGEST:
            fix = "the float network already fails on this picture: check the weights and the picture"
            raise QuantizationError("a tensor holds values that are not finite", got=f"{self.name}: {low}..{high}", fix=fix)
        self.histogram.add(values, largest)
        keep = MOMENTUM if self.pictures else 0.0
        self.average_low = keep * self.average_low + (1 - keep) * low
        self.average_high = keep * self.average_high + (1 - keep) * high
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.pictures else (low, high)
        self.pictures += 1


def minmax(seen: Observed, percentile: float) -> Range:
    """Everything that was seen."""
    return seen.low, seen.high


def moving_average(seen: Observed, percentile: float) -> Range:
    """Moving average of each picture's extremes: one odd picture does not set the range."""
    return seen.average_low, seen.average_high


def percentile_range(seen: Observed, percentile: float) -> Range:
    """Cut the rarest values: `100 - percentile` per cent of them at each end."""
    counts, edges = seen.histogram.counts, seen.histogram.edges
    low, high = -_quantile(counts[::-1], -edges[::-1], percentile), _quantile(counts, edges, percentile)
    return max(low, seen.low), min(high, seen.high)


def _quantile(counts: NDArray[np.int64], edges: NDArray[np.float64], percentile: float) -> float:
    """The value that `percentile` per cent do not exceed, true to a bin: values are taken as evenly spread inside it."""
    reached = np.cumsum(counts)
    rank = max(np.ceil(reached[-1] * percentile / 100 - 1e-6), 1)
    index = int(np.searchsorted(reached, rank))
    inside = (rank - reached[index] + counts[index]) / counts[index]
    return float(edges[index] + inside * (edges[index + 1] - edges[index]))


def mse(seen: Observed, percentile: float) -> Range:
    """The clipping points with the smallest squared error of rounding and clipping together; first the upper, then the lower."""
    shrink = np.linspace(1.0, NARROWEST, CANDIDATES)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    used = np.flatnonzero(seen.histogram.counts)
    values, weight = seen.histogram.centres[used], seen.histogram.counts[used]

    def error(low: float, high: float) -> float:
        step = (high - low) / LEVELS
        nearest = low + np.clip(np.round((values - low) / step), 0, LEVELS) * step
        return float((weight * (values - nearest) ** 2).sum())

    if high > 0:
        high = min((error(low, high * s), high * s) for s in shrink)[1]
    if low < 0:
        low = -min((error(low * s, high), -low * s) for s in shrink)[1]
    return low, high


def entropy(seen: Observed, percentile: float) -> Range:
    """The clipping point whose 8-bit distribution is nearest to the true one by Kullback-Leibler divergence.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017; here the window keeps its own two ends.
    """
    largest = max(abs(seen.low), abs(seen.high))
    best = (np.inf, largest)
    for limit in largest * np.linspace(1.0, NARROWEST, CANDIDATES):
        low, high = max(seen.low, -limit), min(seen.high, limit)
        if low < high:
            best = min(best, (_divergence(seen.histogram, low, high), float(limit)))
    return max(seen.low, -best[1]), min(seen.high, best[1])


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    edges, counts = histogram.edges, histogram.counts
    first, last = (int(i) for i in np.clip(np.searchsorted(edges, (low, high)), (1, 1), (BINS, BINS)))
    inside = counts[first - 1 : last].astype(np.float64)
    true = inside.copy()
    true[0] += counts[: first - 1].sum()
    true[-1] += counts[last:].sum()
    level = np.arange(inside.size) * (LEVELS + 1) // inside.size
    filled = inside > 0
    mass = np.bincount(level, inside)
    spread = np.bincount(level, filled)
    coarse = np.where(filled, (mass / np.maximum(spread, 1))[level], 0.0)
    true, coarse = true / true.sum(), coarse / max(coarse.sum(), 1.0)
    both = true > 0
    return float((true[both] * np.log(true[both] / np.maximum(coarse[both], 1e-9))).sum())


METHODS: dict[str, Callable[[Observed, float], Range]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile_range,
    "entropy": entropy,
    "mse": mse,
}
