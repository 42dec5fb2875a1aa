"""A model of one device's latency, learnt from whole engines.

Every convolution costs α·reads + β·writes + γ·reads·writes; its activation and its share of concats, splits and copies are in α
and β, since whole engines are timed. A Bottleneck that is there costs a fixed part beside. How channels count (`Counting`) is
what predicts best on plans left out of the fit: rounded up to the runtime's block; the outputs alone, since packed INT8 kernels
compute blocks of outputs over any number of inputs; or as they are, and δ where outputs are left over of a block, which some
kernels work on so slowly that 24 channels take longer than 32. No coefficient is negative. Each kind of cost has a level in
common, times what a prior says of every convolution, and ridge keeps what a single one takes beyond that small (AOWS, arXiv
2005.10481, learns a table from whole networks in the same way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import MeasurementError
from toolchain.pruning.groups import Network
from toolchain.selection import cost as costs
from toolchain.selection.cost import Cost, Counting, Linear, Present
from toolchain.selection.shapes import engine_convs

Array = NDArray[np.float64]
Prior = Mapping[str, tuple[float, float, float]]  # convolution -> shares of the dense latency: reads, writes, product
BLOCKS = (4, 8, 16, 32)
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
LEVEL_RIDGE = 0.1  # draws the levels of the four kinds together
WORTH = 0.05  # of the error: what terms for something left over must bring at least
RAGGED_SHARE = 0.05  # of the dense latency, were something left over everywhere; by the pixels of what is written
BLOCK_SHARE = 0.03  # of the dense latency the prior gives to Bottlenecks being there, all together
FOLDS = 5
LEAST_PLANS = 20
PLAIN = "multiply-adds"
ARITHMETIC = 0.7  # share of the dense latency the plain prior gives to multiply-adds; the rest goes to moving channels


COUNTINGS = (
    Counting(), *(Counting(block, exact) for block in BLOCKS for exact in (False, True)),
    *(Counting(ragged=block) for block in BLOCKS), *(Counting(block, True, block) for block in BLOCKS),
)  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """How well a model predicts plans it has not seen.

    Attributes:
        mape: mean |predicted / measured - 1|.
        bias: mean predicted / measured - 1.
        kendall_tau: rank agreement, 1 for the same order.
    """

    plans: int
    mape: float
    bias: float
    kendall_tau: float


@dataclass(frozen=True)
class LatencyModel:
    """Latency of a plan as a share of the reference engine's.

    Attributes:
        cost: the model itself, for the solver.
        held_out: quality on plans that were not fitted, by cross-validation.
        prior: name of the one it was drawn to.
    """

    cost: Cost
    ridge: float
    held_out: Quality
    prior: str = PLAIN


@dataclass(frozen=True)
class _Terms:
    """A network as columns, each divided by its value in the dense network: of every convolution its reads, its writes and their
    product; of every Bottleneck that may go, that it is there; and of those that may, that some outputs are left over of a block.
    """

    names: list[str]
    sides: Mapping[str, tuple[Linear, Linear]]
    others: list[Linear]
    shares_of_others: list[Array]
    dense: Array
    block: int

    @staticmethod
    def of(network: Network, counting: Counting) -> _Terms:
        sides = costs.sides(network, exact_reads=counting.exact_reads)
        sides = {n: s for n, s in sides.items() if s[0].factors or s[1].factors}
        there = [Linear(0.0, {Present(removal.hidden): 1.0}) for removal in network.removals]
        left = costs.ragged(sides, counting.ragged)
        pixels = np.array([engine_convs(network)[name].pixels for name in left], dtype=np.float64)
        shares = [np.full(len(there), BLOCK_SHARE / max(len(there), 1)), RAGGED_SHARE * pixels / max(pixels.sum(), 1.0)]
        others = [*there, *left.values()]
        known = [share for share in shares if len(share)]
        bare = _Terms(list(sides), sides, others, known, np.ones(3 * len(sides) + len(others)), counting.block)
        full = bare.row({g.name: g.channels for g in network.free})
        return replace(bare, dense=np.where(full > 0, full, 1.0))

    def row(self, widths: Mapping[str, int]) -> Array:
        """(3 · convolutions + others,) columns of one plan."""
        sizes = Cost(self.block).sizes(widths)
        both = np.array([[one.at(sizes) for one in self.sides[n]] for n in self.names])
        others = np.array([one.at(sizes) for one in self.others])
        return np.concatenate([both[:, 0], both[:, 1], both[:, 0] * both[:, 1], others]) / self.dense

    def kinds(self, prior: Prior) -> Array:
        """(columns, kinds) what the prior gives to all reads, writes, products; and the others, of which it knows nothing."""
        columns = [*(np.array([prior[name][kind] for name in self.names]) for kind in range(3)), *self.shares_of_others]
        found, at = np.zeros((len(self.dense), len(columns))), 0
        for kind, column in enumerate(columns):
            found[at : at + len(column), kind] = column
            at += len(column)
        return found

    def cost(self, constant: float, weights: Array) -> Cost:
        """The solver's form."""
        reads, writes, products, others = np.split(weights / self.dense, np.arange(1, 4) * len(self.names))
        sides = [self.sides[name] for name in self.names]
        terms = [(float(k), side[0]) for k, side in zip(reads, sides, strict=True)]
        terms += [(float(k), side[1]) for k, side in zip(writes, sides, strict=True)]
        terms += [(float(k), one) for k, one in zip(others, self.others, strict=True)]
        both = [(float(k), *side) for k, side in zip(products, sides, strict=True)]
        return costs.total(self.block, constant, terms, both)


def plain_prior(network: Network) -> dict[str, tuple[float, float, float]]:
    """What is thought of a convolution before anything was measured: by its multiply-adds, and by the channels it moves."""
    convs = engine_convs(network)
    work = {n: c.inputs * c.outputs * c.macs_per_pair for n, c in convs.items()}
    moved = {n: (c.inputs * c.pixels, c.outputs * c.pixels) for n, c in convs.items()}
    all_work, all_moved = sum(work.values()), sum(a + b for a, b in moved.values())
    rest = 1 - ARITHMETIC
    return {n: (rest * moved[n][0] / all_moved, rest * moved[n][1] / all_moved, ARITHMETIC * work[n] / all_work) for n in convs}


def fit(
    network: Network, plans: Sequence[Mapping[str, int]], ratios: Sequence[float], priors: Mapping[str, Prior] | None = None
) -> LatencyModel:
    """Learn from timed plans.

    Args:
        plans: group -> width, every free group named.
        ratios: measured latency of each, as a share of the dense engine's (or of any fixed reference).
        priors: name -> what a profile says of each convolution; the one that predicts best, or `plain_prior`, is drawn to.

    Raises:
        MeasurementError: too few plans.
    """
    if len(plans) < LEAST_PLANS:
        raise MeasurementError("too few timed plans to learn a latency model", got=len(plans), fix=f"{LEAST_PLANS} or more")
    measured = np.asarray(ratios, dtype=np.float64)
    known: dict[str, Prior] = {PLAIN: plain_prior(network), **(priors or {})}
    best: tuple[float, _Terms, Array, float, str] | None = None
    for counting in COUNTINGS:
        terms = _Terms.of(network, counting)
        rows = _rows(terms, plans)
        for (name, prior), ridge in product(known.items(), RIDGES):
            predicted = _left_out(rows, measured, terms.kinds(prior), ridge)
            error = float(np.mean(np.abs(predicted / measured - 1))) * (1 + (WORTH if counting.ragged else 0))
            if best is None or error < best[0] - 1e-6:
                best = (error, terms, rows, ridge, name)
    assert best is not None
    _, terms, rows, ridge, name = best
    kinds = terms.kinds(known[name])
    held = quality(_left_out(rows, measured, kinds, ridge), measured)
    constant, weights = _solve(rows, measured, kinds, ridge)
    return LatencyModel(terms.cost(constant, weights), ridge, held, name)


def quality(predicted: Array, measured: Array) -> Quality:
    """Raises: MeasurementError for fewer than two plans."""
    from scipy.stats import kendalltau

    if len(measured) < 2:
        raise MeasurementError("the quality of a model needs at least two plans", got=len(measured))
    off = predicted / measured - 1
    tau = float(kendalltau(predicted, measured).statistic)
    return Quality(len(measured), float(np.mean(np.abs(off))), float(np.mean(off)), tau)


def _rows(terms: _Terms, plans: Sequence[Mapping[str, int]]) -> Array:
    return np.stack([terms.row(plan) for plan in plans])


def _solve(rows: Array, measured: Array, kinds: Array, ridge: float) -> tuple[float, Array]:
    """Constant and weights ≥ 0 of least relative error: the level of each kind times the prior, and what ridge lets be beyond.

    A weight may exceed its kind's by about its own size, and by a little more where the prior is almost nothing.
    """
    from scipy.optimize import nnls

    start = kinds.sum(axis=1)
    size, count = start + start.mean(), kinds.shape[1]
    data = np.hstack([np.ones((len(rows), 1)), rows * size, rows @ kinds]) / measured[:, None]
    pull = np.diag([*np.full(len(start), ridge), *np.full(count, LEVEL_RIDGE)])
    level = float(np.mean(measured) / np.mean(rows @ start))  # of the prior, only the proportions are trusted
    wanted = np.concatenate([np.ones(len(rows)), np.zeros(len(start)), np.full(count, LEVEL_RIDGE * level)])
    found, _ = nnls(np.vstack([data, np.hstack([np.zeros((len(pull), 1)), pull])]), wanted, maxiter=20000)
    return float(found[0]), found[1 : 1 + len(start)] * size + kinds @ found[1 + len(start) :]


def _left_out(rows: Array, measured: Array, kinds: Array, ridge: float) -> Array:
    """Prediction of every plan by a model that has not seen it."""
    predicted = np.empty(len(rows))
    for fold in range(FOLDS):
        out = np.arange(len(rows)) % FOLDS == fold
        constant, weights = _solve(rows[~out], measured[~out], kinds, ridge)
        predicted[out] = constant + rows[out] @ weights
    return predicted
