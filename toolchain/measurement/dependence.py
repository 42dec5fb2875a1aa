"""What samples that depend on each other are worth: neighbours alike, or one pass slower than another.

The share of samples at or below a quantile varies more than that of independent samples. How much more (the design effect) is
read from blocks (whole passes, or stretches of at least a second), long enough to be independent of each other: n samples are
worth n / effect independent ones, less a factor for the few blocks that the effect is known from.

Whether an interval exists is judged by other figures than its width, from all samples and not from the few beyond the quantile:
judged by the same, an interval would be given just where it came out too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from toolchain.measurement.order import TAIL, Values, middle_rank

MIN_BLOCKS = 6
LEAST_EFFECT = 0.25  # blocks that are alike by luck or by a rhythm must not shrink an interval to nothing
TERMS = 60
LAG1_CAP = 0.999


def blocks_of(passes: Sequence[Values], least: float) -> list[Values]:
    """Whole passes where there are enough of them, else equal stretches of them that add up to at least `least` each."""
    if len(passes) >= MIN_BLOCKS:
        return list(passes)
    blocks: list[Values] = []
    for one in passes:
        count = max(1, min(int(one.sum() / least), len(one)))
        blocks += np.array_split(one, count)
    return blocks


def design_effect(blocks: Sequence[Values], q: float = 0.5) -> float | None:
    """How many times more the blocks' shares below the q-quantile vary than those of independent samples; None below 6 blocks.

    Kish, *Survey Sampling* (1965); the quantile as a share: Woodruff, "Confidence intervals for medians and other position
    measures", JASA 47 (1952).
    """
    if len(blocks) < MIN_BLOCKS:
        return None
    values, sizes = np.concatenate(blocks), np.array([len(block) for block in blocks])
    n, count, rank = len(values), len(blocks), middle_rank(len(values), q)
    below = np.add.reduceat(values <= np.partition(values, rank - 1)[rank - 1], np.cumsum(sizes) - sizes, dtype=np.int64)
    excess = below - below.sum() / n * sizes
    return float(excess @ excess) * count / (count - 1) / (rank * (1 - rank / n))


def more_than_chance(effect: float, blocks: int) -> bool:
    """Whether independent samples would have such a design effect less than once in a hundred times (chi-squared)."""
    from scipy.special import chdtri

    return bool(effect > chdtri(blocks - 1, 0.01) / (blocks - 1))


def worth(blocks: Sequence[Values], q: float) -> float:
    """Independent samples that would give an interval of the q-quantile as wide as the blocks ask for; at least 6 blocks.

    The effective sample size of Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24 (1998): n / design effect, times (z / t)^2 with as many degrees of
    freedom as blocks less one.
    """
    from scipy.special import ndtri, stdtrit

    n, effect = sum(map(len, blocks)), design_effect(blocks, q)
    if effect is None:
        raise ValueError(f"{len(blocks)} blocks; it takes {MIN_BLOCKS}")
    return float(n / max(effect, LEAST_EFFECT) * (ndtri(TAIL) / stdtrit(len(blocks) - 1, TAIL)) ** 2)


def likely_worth(n: int, blocks: int, effect: float, lag1: float | None, q: float) -> float:
    """Independent samples that n are worth about the q-quantile, by the dependence seen in all samples; n at most.

    Two models of it, the worse of which counts: a chain whose neighbours are correlated by `lag1` plus two standard errors, and
    blocks whose members are all equally correlated, as `effect` (at the median) tells. Both carry the correlation over to the
    quantile as normal scores would; a far quantile depends less than the median.

    Args:
        n: samples.
        blocks: how many blocks they make.
        effect: `design_effect` at the median.
        lag1: correlation of each sample with the next; None where there is no variation.
    """
    weights, powers = _tetrachoric(q), np.arange(1, TERMS + 1)
    inside = max(0.0, min(1.0, (effect - 1) / max(n / blocks - 1, 1.0)))
    rho = math.sin(math.pi / 2 * inside)  # at the median the correlation of events is 2 / pi asin(rho)
    by_blocks = 1 + (n / blocks - 1) * float(weights @ rho**powers)
    seen = max(lag1 or 0.0, 0.0)
    chain = min(seen + 2 * math.sqrt(max(1 - seen**2, 0.0) / n), LAG1_CAP) ** powers
    by_neighbours = 1 + 2 * float(weights @ (chain / (1 - chain)))  # the sum over all distances, term by term
    return n / max(by_blocks, by_neighbours)


@lru_cache
def _tetrachoric(q: float) -> Values:
    """w_1, w_2, ...: two normal variables correlated by r exceed their q-quantiles with correlation sum of w_j r^j.

    Pearson's tetrachoric series, Phil. Trans. A 195 (1900), with Hermite polynomials of unit norm.
    """
    from scipy.special import ndtri

    z = float(ndtri(q))
    last, hermite, weights = 0.0, 1.0, []
    for j in range(1, TERMS + 1):
        weights.append(hermite**2 / j)
        last, hermite = hermite, (z * hermite - math.sqrt(j - 1) * last) / math.sqrt(j)
    return np.array(weights) * math.exp(-(z**2)) / (2 * math.pi * q * (1 - q))
