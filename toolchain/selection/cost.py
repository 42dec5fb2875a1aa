"""What a plan costs, as sums over groups and over pairs of groups: the form the solver can be exact about.

A convolution's time grows with what it reads, what it writes, and their product; the inputs of a convolution behind a concat are
the sum of its sources. All three are at most products of two groups' widths, so any such cost is

    constant + Σ_g linear[g] · p(w_g) + Σ_{g ≤ h} pair[g, h] · p(w_g) · p(w_h)

with p(w) the width rounded up to the runtime's block: the staircase of its kernels. What is there only while a Bottleneck is
(`Present`) stands in the sums like a width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from toolchain.pruning.groups import Network
from toolchain.selection.shapes import EngineConv, engine_convs


class Present(NamedTuple):
    """p(w_of), or 1 where `of` is None, while the group `by` has channels; 0 when it has none and its Bottleneck is gone."""

    by: str
    of: str | None = None


Term = str | Present  # a group's padded width, or a part of it that may go
Pair = tuple[Term, Term]


def value(term: Term, padded: Mapping[str, float]) -> float:
    """Of a term, at padded widths."""
    if isinstance(term, str):
        return padded[term]
    return 0.0 if not padded[term.by] else 1.0 if term.of is None else padded[term.of]


@dataclass(frozen=True)
class Linear:
    """constant + Σ factors[g] · p(w_g)."""

    constant: float
    factors: Mapping[Term, float]

    def at(self, padded: Mapping[str, float]) -> float:
        """Its value at padded widths."""
        return self.constant + sum(k * value(g, padded) for g, k in self.factors.items())


@dataclass(frozen=True)
class Cost:
    """A cost in any unit; see the module's formula.

    Attributes:
        block: widths count rounded up to a multiple of it.
    """

    block: int = 1
    constant: float = 0.0
    linear: Mapping[Term, float] = field(default_factory=dict)
    pair: Mapping[Pair, float] = field(default_factory=dict)

    def padded(self, width: int) -> int:
        """p(w)."""
        return -(-width // self.block) * self.block

    def at(self, widths: Mapping[str, int]) -> float:
        """The cost of a plan that names every free group."""
        p = {g: float(self.padded(w)) for g, w in widths.items()}
        return (
            self.constant
            + sum(k * value(g, p) for g, k in self.linear.items())
            + sum(k * value(g, p) * value(h, p) for (g, h), k in self.pair.items())
        )


def sides(network: Network) -> dict[str, tuple[Linear, Linear]]:
    """Convolution of the engine -> what it reads and writes, in channels, as functions of the free groups' widths."""
    free = {g.name: g.channels for g in network.free}

    def side(total: int, parts: Mapping[str, int], conv: EngineConv, skips: Iterable[tuple[str, str]]) -> Linear:
        factors: dict[Term, float] = {}
        for group, k in parts.items():
            if group in free:
                factors[group if not conv.block or group in conv.block else Present(conv.block[0], group)] = float(k)
        for hidden, source in skips:
            factors[source] -= 1.0
            factors[Present(hidden, source)] = 1.0
        return Linear(float(total - sum(k * free[g] for g, k in parts.items() if g in free)), factors)

    return {n: (side(c.inputs, c.reads, c, c.skips), side(c.outputs, c.writes, c, ())) for n, c in engine_convs(network).items()}


def total(block: int, constant: float, terms: list[tuple[float, Linear]], products: list[tuple[float, Linear, Linear]]) -> Cost:
    """Σ coefficient · side + Σ coefficient · side · side, gathered by group and pair."""
    linear: dict[Term, float] = {}
    pair: dict[Pair, float] = {}
    for coefficient, one in terms:
        constant += coefficient * one.constant
        for g, k in one.factors.items():
            linear[g] = linear.get(g, 0.0) + coefficient * k
    for coefficient, one, other in products:
        constant += coefficient * one.constant * other.constant
        for a, b in ((one, other), (other, one)):
            for g, k in a.factors.items():
                linear[g] = linear.get(g, 0.0) + coefficient * k * b.constant
        for g, k in one.factors.items():
            for h, m in other.factors.items():
                key = _pair(g, h)
                pair[key] = pair.get(key, 0.0) + coefficient * k * m
    return Cost(block, constant, {g: k for g, k in linear.items() if k}, {key: k for key, k in pair.items() if k})


def _pair(g: Term, h: Term) -> Pair:
    """In one order; and what a Bottleneck's own channels multiply needs no word about the Bottleneck being there."""
    for one, other in ((g, h), (h, g)):
        if isinstance(one, Present) and one.by == other and one.of is not None:
            return _pair(one.of, other)
    return (g, h) if str(g) <= str(h) else (h, g)


def weights(network: Network) -> Cost:
    """Weights of the convolutions, as `Network.params` counts them."""
    convs, engine = sides(network), engine_convs(network)
    kernel = {n: float(c.macs_per_pair // c.pixels) for n, c in engine.items()}
    products = [(kernel[n], *convs[n]) for n in convs if not engine[n].depthwise]
    terms = [(kernel[n], convs[n][1]) for n in convs if engine[n].depthwise]
    return total(1, 0.0, terms, products)


def scaled(cost: Cost, factor: float, constant: float) -> Cost:
    """constant + factor · cost."""
    return Cost(
        cost.block, constant + factor * cost.constant, {g: factor * k for g, k in cost.linear.items()},
        {pair: factor * k for pair, k in cost.pair.items()},
    )  # fmt: skip


def plus(one: Cost, other: Cost) -> Cost:
    """Their sum; both round widths up to the same block."""
    assert one.block == other.block
    linear, pair = dict(one.linear), dict(one.pair)
    for term, k in other.linear.items():
        linear[term] = linear.get(term, 0.0) + k
    for both, k in other.pair.items():
        pair[both] = pair.get(both, 0.0) + k
    return Cost(one.block, one.constant + other.constant, linear, pair)


def macs(network: Network) -> Cost:
    """Multiply-adds of a picture, as `Network.macs` counts them."""
    convs, engine = sides(network), engine_convs(network)
    products = [(float(engine[n].macs_per_pair), *convs[n]) for n in convs if not engine[n].depthwise]
    terms = [(float(engine[n].macs_per_pair), convs[n][1]) for n in convs if engine[n].depthwise]
    return total(1, 0.0, terms, products)
