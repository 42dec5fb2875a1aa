"""What a plan costs, as sums over groups and over pairs of groups: the form the solver can be exact about.

A convolution's time grows with what it reads, what it writes, and their product; the inputs of a convolution behind a concat are
the sum of its sources. All three are at most products of two groups' widths, so any such cost is

    constant + Σ_g linear[g] · p(w_g) + Σ_{g ≤ h} pair[g, h] · p(w_g) · p(w_h)

with p(w) the width rounded up to the runtime's block: the staircase of its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolchain.pruning.groups import Network
from toolchain.selection.shapes import engine_convs

Pair = tuple[str, str]


@dataclass(frozen=True)
class Linear:
    """constant + Σ factors[g] · p(w_g)."""

    constant: float
    factors: Mapping[str, float]

    def at(self, padded: Mapping[str, float]) -> float:
        """Its value at padded widths."""
        return self.constant + sum(k * padded[g] for g, k in self.factors.items())


@dataclass(frozen=True)
class Cost:
    """A cost in any unit; see the module's formula.

    Attributes:
        block: widths count rounded up to a multiple of it.
    """

    block: int = 1
    constant: float = 0.0
    linear: Mapping[str, float] = field(default_factory=dict)
    pair: Mapping[Pair, float] = field(default_factory=dict)

    def padded(self, width: int) -> int:
        """p(w)."""
        return -(-width // self.block) * self.block

    def at(self, widths: Mapping[str, int]) -> float:
        """The cost of a plan that names every free group."""
        p = {g: self.padded(w) for g, w in widths.items()}
        return (
            self.constant
            + sum(k * p[g] for g, k in self.linear.items())
            + sum(k * p[g] * p[h] for (g, h), k in self.pair.items())
        )


def sides(network: Network) -> dict[str, tuple[Linear, Linear]]:
    """Convolution of the engine -> what it reads and writes, in channels, as functions of the free groups' widths."""
    free = {g.name for g in network.free}
    channels = {g.name: g.channels for g in network.groups}

    def side(total: int, parts: Mapping[str, int]) -> Linear:
        fixed = total - sum(k * channels[g] for g, k in parts.items() if g in free)
        return Linear(float(fixed), {g: float(k) for g, k in parts.items() if g in free})

    return {name: (side(c.inputs, c.reads), side(c.outputs, c.writes)) for name, c in engine_convs(network).items()}


def total(block: int, constant: float, terms: list[tuple[float, Linear]], products: list[tuple[float, Linear, Linear]]) -> Cost:
    """Σ coefficient · side + Σ coefficient · side · side, gathered by group and pair."""
    linear: dict[str, float] = {}
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
                key = (min(g, h), max(g, h))
                pair[key] = pair.get(key, 0.0) + coefficient * k * m
    return Cost(block, constant, {g: k for g, k in linear.items() if k}, {key: k for key, k in pair.items() if k})


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


def macs(network: Network) -> Cost:
    """Multiply-adds of a picture, as `Network.macs` counts them."""
    convs, engine = sides(network), engine_convs(network)
    products = [(float(engine[n].macs_per_pair), *convs[n]) for n in convs if not engine[n].depthwise]
    terms = [(float(engine[n].macs_per_pair), convs[n][1]) for n in convs if engine[n].depthwise]
    return total(1, 0.0, terms, products)
