"""Pure functions of raw samples. No distribution is assumed: intervals come from order statistics.

The number of samples at or below the true q-quantile is Binomial(n, q): two order statistics enclose it with known probability.
Samples that depend on each other get theirs from blocks instead (dependence.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolchain.errors import MeasurementError
from toolchain.measurement.dependence import MIN_BLOCKS, Values, block_indices, blocks_of, design_effect

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
CONFIDENCE = 0.95
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
        interval: where the percentiles' intervals come from: "order statistics" of independent samples, "blocks" of samples that
            depend on each other, or "none" when they do and there are too few blocks.
        design_effect: n / design_effect independent samples would tell as much; None where it could not be judged.
        sd, cv: sample standard deviation and sd / mean; None for one sample.
        slow_count: samples above twice the median.
        drift: median of the last third / median of the first third - 1; None below 6 samples.
        lag1: correlation of each sample with the next; None below 3 samples or without variation.
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


def interval_indices(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """1-based ranks (l, u) of the order statistics that enclose the q-quantile; None for a bound that does not exist.

    l is the largest index with P(B <= l-1) <= (1-c)/2 and u the smallest with P(B <= u-1) >= (1+c)/2, B ~ Binomial(n, q).
    Example: n = 1000, q = 0.5 gives (469, 532).
    """
    from scipy.special import bdtr

    cumulative = bdtr(np.arange(n), n, q)  # P(B <= k) for k = 0 .. n-1
    lower = int((cumulative <= (1 - confidence) / 2).sum())
    upper = int((cumulative < (1 + confidence) / 2).sum()) + 1
    return (lower or None), (upper if upper <= n else None)


def percentile(samples: ArrayLike, q: float, confidence: float = CONFIDENCE) -> Percentile:
    """The q-quantile x_(ceil(q n)) and its interval."""
    ordered = np.sort(checked(samples))
    return _between(ordered, q, interval_indices(len(ordered), q, confidence), f"{len(ordered)} samples are too few")


def _between(ordered: Values, q: float, ranks: tuple[int | None, int | None], reason: str) -> Percentile:
    """The quantile and the two order statistics of these ranks; nothing where one does not exist."""
    lower, upper = ranks
    if lower is None or upper is None:
        side = "lower" if lower is None else "upper"
        return Percentile(None, None, None, f"{reason}: no {side} {CONFIDENCE:.0%} bound exists")
    rank = max(1, math.ceil(round(q * len(ordered), 9)))
    return Percentile(float(ordered[rank - 1]), float(ordered[lower - 1]), float(ordered[upper - 1]))


def dependent_percentile(blocks: Sequence[Values], q: float, effect: float | None) -> Percentile:
    """The q-quantile of samples that depend on each other inside their blocks.

    Args:
        effect: `design_effect` of the blocks; None when there are too few of them.
    """
    values = np.sort(np.concatenate(blocks))
    plain = percentile(values, q)
    if plain.value is None:
        return plain
    if effect is None:
        reason = f"the samples depend on each other and make {len(blocks)} blocks; it takes {MIN_BLOCKS} for an interval"
        return Percentile(plain.value, None, None, reason)
    worth = int(len(values) / max(effect, 1.0))
    ranks = block_indices(blocks, q, CONFIDENCE) if None not in interval_indices(worth, q) else (None, None)
    return _between(values, q, ranks, f"{len(values)} samples that depend on each other tell as much as {worth}")


def lag1_autocorrelation(samples: ArrayLike) -> float | None:
    """Correlation of neighbouring samples, -1..1; None below 3 samples or without variation."""
    values = checked(samples)
    centred = values - values.mean()
    power = float(centred @ centred)
    if len(values) < 3 or power <= 1e-24 * float(values @ values):
        return None
    return float(centred[:-1] @ centred[1:]) / power


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

    Intervals are those of independent samples unless neighbours are correlated (lag 1 above 0.1) or the passes differ by more
    than chance explains.

    Args:
        samples: ms.
        passes: how many of the samples each pass took; None: all in one.
    """
    values = checked(samples)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    blocks = blocks_of(np.split(values, np.cumsum(passes)[:-1]) if passes else [values], BLOCK_MS)
    lag1, effect = lag1_autocorrelation(values), design_effect(blocks)
    depend = (lag1 is not None and lag1 > LAG1_LIMIT) or (effect is not None and effect > 1)
    return Summary(
        n=len(values), min=float(values.min()), max=float(values.max()), mean=mean, sd=sd,
        cv=sd / mean if sd is not None and mean else None,
        **{name: dependent_percentile(blocks, q, effect) if depend else percentile(values, q) for name, q in QUANTILES.items()},
        slow_count=int((values > 2 * np.median(values)).sum()), drift=drift(values), lag1=lag1,
        interval="order statistics" if not depend else "blocks" if effect is not None else "none", design_effect=effect,
    )  # fmt: skip


def ratio_of_rounds(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> Ratio:
    """Median over rounds of median(a_i) / median(b_i), with the order-statistics interval of those ratios.

    Slow drift of the machine cancels inside a round. For latencies of a baseline `a` and an engine `b` this is how many times
    faster `b` is.

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
    lower, upper = interval_indices(rounds, 0.5)
    if lower is None or upper is None:
        return Ratio(value, None, None, rounds, f"{rounds} rounds are too few for a 95 % interval (it takes {MIN_ROUNDS})")
    return Ratio(value, ratios[lower - 1], ratios[upper - 1], rounds)


def to_json(value: Percentile | Ratio | Summary) -> dict[str, Any]:
    """Plain dict for JSON."""
    from dataclasses import asdict

    return asdict(value)
