"""Intervals of a quantile from samples that depend on each other: neighbours alike, or one pass slower than another.

Independent samples at or below the true q-quantile are Binomial(n, q) in number. Samples that are not vary more in number; how
much more is read from blocks (whole passes, or stretches of at least a second), long enough to be independent of each other. The
interval of the share below the quantile then turns into one of the quantile through the order statistics (Woodruff, "Confidence
intervals for medians and other position measures", JASA 47, 1952; batch means with Student's t).

A block bootstrap of so few blocks (9 passes) covers 88 % instead of 95 %: benchmarks/06_interval_coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_BLOCKS = 6
Values = NDArray[np.float64]


def blocks_of(passes: Sequence[Values], least: float) -> list[Values]:
    """Whole passes where there are enough of them, else equal stretches of them that add up to at least `least` each."""
    if len(passes) >= MIN_BLOCKS:
        return list(passes)
    blocks: list[Values] = []
    for one in passes:
        count = max(1, min(int(one.sum() / least), len(one)))
        blocks += np.array_split(one, count)
    return blocks


def _excess(blocks: Sequence[Values], bound: float) -> Values:
    """How many more samples of each block lie at or below `bound` than its even share of all such samples."""
    sizes = np.array([len(block) for block in blocks])
    below = np.array([int((block <= bound).sum()) for block in blocks])
    return np.asarray(below - below.sum() / sizes.sum() * sizes)


def design_effect(blocks: Sequence[Values]) -> float | None:
    """How many times more the blocks' shares below the median vary than those of independent samples; None below 6 blocks.

    n samples are worth n / design effect independent ones.
    """
    if len(blocks) < MIN_BLOCKS:
        return None
    values = np.sort(np.concatenate(blocks))
    excess = _excess(blocks, float(values[(len(values) - 1) // 2]))
    share = (len(values) + 1) // 2 / len(values)
    expected = len(values) * share * (1 - share)
    return float(excess @ excess) * len(blocks) / (len(blocks) - 1) / expected if expected else None


def block_indices(blocks: Sequence[Values], q: float, confidence: float) -> tuple[int | None, int | None]:
    """1-based ranks of the order statistics of all samples that enclose the q-quantile; None for a bound that does not exist."""
    from scipy.special import stdtrit

    values = np.sort(np.concatenate(blocks))
    n, count = len(values), len(blocks)
    excess = _excess(blocks, float(values[max(1, math.ceil(round(q * n, 9))) - 1]))
    error = math.sqrt(float(excess @ excess) * count / (count - 1)) / n
    margin = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    lower, upper = math.floor(n * (q - margin)), math.ceil(n * (q + margin)) + 1
    return (lower if lower >= 1 else None), (upper if upper <= n else None)
