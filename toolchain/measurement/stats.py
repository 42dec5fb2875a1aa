"""Pure functions of raw samples. No distribution is assumed: intervals come from order statistics (order.py).

Where there are enough passes, how many samples count is read from the passes (dependence.py), whether the samples look dependent
or not: a choice made by the same samples would make intervals too wide or too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolchain.errors import MeasurementError
from toolchain.measurement.dependence import MIN_BLOCKS, blocks_of, design_effect, likely_worth, more_than_chance, worth
from toolchain.measurement.order import CONFIDENCE, Values, at_rank, interval_ranks, least_samples, middle_rank

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
MIN_ROUNDS = 6  # below, no interval of the median reaches 95 %
LAG1_LIMIT = 0.1
BLOCK_MS = 1000.0


@dataclass(frozen=True)
class Percentile:
    """One quantile with its two-sided 95 % interval; what is None is explained by `reason`.

    There is no value where so few samples have no bound at all, and no interval where it cannot be told how far they depend on
    each other.
    """

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios; the interval is None, with the reason, below six rounds."""

    value: float
    low: float | None
    high: float | None
    rounds: int
    reason: str | None = None

    def contains(self, value: float) -> bool:
        """Whether `value` lies in the interval; False where there is none."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


CONTROL_MARGIN = 0.02


def control_holds(low: float, high: float) -> bool:
    """Whether an engine timed against itself reads as equal: its 95 % interval comes within 2 % of 1.

    An interval that had to hold 1 itself would refuse one quiet machine in twenty by construction; a bias below 2 % decides no
    comparison that is worth a claim.
    """
    return low <= 1 + CONTROL_MARGIN and high >= 1 - CONTROL_MARGIN


@dataclass(frozen=True)
class Summary:
    """Everything said about one list of samples, ms.

    Attributes:
        interval: where the percentiles' intervals come from: "blocks" (passes, or stretches of at least a second), "order
            statistics" of samples that make too few blocks, or "none" when those are correlated besides.
        dependence: how the samples depend on each other: "neighbours" are correlated, the "passes" differ by more than chance
            explains, or None.
        design_effect: n / design_effect independent samples would tell as much about the median; None below 6 blocks.
        sd, cv: sample standard deviation and sd / mean; None for one sample.
        slow_count: samples above twice the median.
        drift: median of the last third / median of the first third - 1; None below 6 samples.
        lag1: correlation of each sample with the next of its pass; None below 3 samples or without variation.
    """

    n: int
    min: float
    max: float
    mean: float
    sd: float | None
    cv: float | None
    p50: Percentile
    p90: Percentile
    p95: Percentile
    p99: Percentile
    slow_count: int
    drift: float | None
    lag1: float | None
    interval: str
    dependence: str | None
    design_effect: float | None


def checked(samples: ArrayLike) -> NDArray[np.float64]:
    """Samples as a 1-D float array.

    Raises:
        MeasurementError: none, not one-dimensional, or one is not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise MeasurementError("no samples, or not a list of numbers", got=f"shape {values.shape}")
    if not np.isfinite(values).all():
        raise MeasurementError("a sample is not a finite number", got=f"{int((~np.isfinite(values)).sum())} of {values.size}")
    return values


def percentile(samples: ArrayLike, q: float) -> Percentile:
    """The q-quantile x_(ceil(q n)) of independent samples and its interval."""
    ordered = np.sort(checked(samples))
    ranks = interval_ranks(len(ordered), q)
    if ranks is None:
        return Percentile(None, None, None, f"{len(ordered)} samples are too few: {_takes(q)}")
    return _between(ordered, q, *ranks)


def _takes(q: float) -> str:
    return f"an interval of {CONFIDENCE:.0%} takes {math.ceil(least_samples(q))}"


def _between(ordered: Values, q: float, lower: float, upper: float) -> Percentile:
    value = float(ordered[middle_rank(len(ordered), q) - 1])
    return Percentile(value, at_rank(ordered, lower), at_rank(ordered, upper))


def block_percentile(blocks: Sequence[Values], q: float, effect: float, lag1: float | None) -> Percentile:
    """The q-quantile of samples that may depend on each other inside their blocks, and its interval.

    Ranks are those of as many independent samples as these are worth, stretched over all of them; towards the tail, where few
    blocks reach, so that the last of the few is the last of all. Where the blocks would ask for more than the largest sample,
    it is the bound: `likely_worth` has shown that there are enough samples for it to be one.

    Args:
        blocks: at least 6, ms.
        q: 0.5 or more.
        effect: `design_effect` of the blocks at the median.
        lag1: as in `Summary`.
    """
    ordered = np.sort(np.concatenate(blocks))
    n = len(ordered)
    likely = likely_worth(n, len(blocks), effect, lag1, q) if q > 0.5 else n
    if min(n, likely) < least_samples(q):
        few = "" if n < least_samples(q) else f" that depend on each other and tell as much as {likely:.0f}"
        return Percentile(None, None, None, f"{n} samples{few} are too few: {_takes(q)}")
    count = max(worth(blocks, q), least_samples(q))
    lower, upper = interval_ranks(count, q) or (1.0, count)
    inner = (n + 1) / (count + 1)
    return _between(ordered, q, lower * inner, upper * (n / count if q > 0.5 else inner))


def _percentiles(blocks: Sequence[Values], interval: str, effect: float | None, lag1: float | None) -> dict[str, Percentile]:
    """The four of `QUANTILES`, with intervals of that kind."""
    if interval == "blocks" and effect is not None:
        return {name: block_percentile(blocks, q, effect, lag1) for name, q in QUANTILES.items()}
    values = np.concatenate(blocks)
    found = {name: percentile(values, q) for name, q in QUANTILES.items()}
    if interval == "order statistics":
        return found
    reason = f"the samples depend on each other and make {len(blocks)} blocks; it takes {MIN_BLOCKS} for an interval"
    return {name: one if one.value is None else Percentile(one.value, None, None, reason) for name, one in found.items()}


def lag1_autocorrelation(passes: Sequence[ArrayLike]) -> float | None:
    """Correlation of neighbouring samples of one pass, about -1..1; None below 3 samples, without neighbours or variation."""
    parts = [checked(one) for one in passes]
    values = np.concatenate(parts)
    mean = values.mean()
    centred = [one - mean for one in parts]
    power, pairs = sum(float(one @ one) for one in centred), len(values) - len(parts)
    if len(values) < 3 or not pairs or power <= 1e-24 * float(values @ values):
        return None
    return sum(float(one[:-1] @ one[1:]) for one in centred) / pairs / (power / len(values))


def drift(samples: ArrayLike) -> float | None:
    """Median of the last third / median of the first third - 1; None below 6 samples or when the first is 0."""
    values = checked(samples)
    third = len(values) // 3
    if third < 2:
        return None
    first = float(np.median(values[:third]))
    return float(np.median(values[-third:])) / first - 1 if first else None


def summarize(samples: ArrayLike, passes: Sequence[int] | None = None) -> Summary:
    """All of the above for samples in the order they were taken.

    Intervals come from the passes, or from stretches of at least a second, where these make 6 or more; else they are those of
    independent samples, unless neighbours are correlated (lag 1 above 0.1).

    Args:
        samples: ms.
        passes: how many of the samples each pass took; None: all in one.
    """
    values = checked(samples)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    parts = [one for one in np.split(values, np.cumsum(passes)[:-1]) if len(one)] if passes else [values]
    blocks = blocks_of(parts, BLOCK_MS)
    lag1, effect = lag1_autocorrelation(parts), design_effect(blocks)
    dependence = "passes" if effect is not None and more_than_chance(effect, len(blocks)) else None
    dependence = "neighbours" if lag1 is not None and lag1 > LAG1_LIMIT else dependence
    interval = "blocks" if effect is not None else "none" if dependence else "order statistics"
    return Summary(
        n=len(values), min=float(values.min()), max=float(values.max()), mean=mean, sd=sd,
        cv=sd / mean if sd is not None and mean else None,
        **_percentiles(blocks, interval, effect, lag1),
        slow_count=int((values > 2 * np.median(values)).sum()), drift=drift(values), lag1=lag1,
        interval=interval, dependence=dependence, design_effect=effect,
    )  # fmt: skip


def ratio_of_rounds(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> Ratio:
    """Median over rounds of median(a_i) / median(b_i), with the order-statistics interval of those ratios.

    Slow drift of the machine cancels inside a round. For latencies of a baseline `a` and an engine `b` this is how many times
    faster `b` is. Between two ratios the bounds lie on the line of their logarithms: a against b is then 1 / (b against a).

    Raises:
        MeasurementError: no rounds, not the same number, or a median that is not positive.
    """
    if not a or len(a) != len(b):
        raise MeasurementError("both sides need the same number of rounds", got=f"{len(a)} and {len(b)}")
    medians = [(float(np.median(checked(x))), float(np.median(checked(y)))) for x, y in zip(a, b, strict=True)]
    if any(x <= 0 or y <= 0 for x, y in medians):
        raise MeasurementError("a round's median is not positive", got=medians)
    ratios = sorted(x / y for x, y in medians)
    value, rounds = float(np.median(ratios)), len(ratios)
    ranks = interval_ranks(rounds, 0.5)
    if ranks is None:
        return Ratio(value, None, None, rounds, f"{rounds} rounds are too few for a 95 % interval (it takes {MIN_ROUNDS})")
    low, high = (ratios[int(rank) - 1] * (ratios[int(rank)] / ratios[int(rank) - 1]) ** (rank % 1) for rank in ranks)
    return Ratio(value, low, high, rounds)


def to_json(value: Percentile | Ratio | Summary) -> dict[str, Any]:
    """Plain dict for JSON."""
    from dataclasses import asdict

    return asdict(value)
