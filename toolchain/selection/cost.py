"""What a plan costs, as sums over groups and over pairs of groups: the form the solver can be exact about.

A convolution's time grows with what it reads, what it writes, and their product; the inputs of a convolution behind a concat are
the sum of its sources. All three are at most products of two groups' widths, so any such cost is

    constant + Σ_g linear[g] · p(w_g) + Σ_{g ≤ h} pair[g, h] · p(w_g) · p(w_h)

with p(w) the width rounded up to the runtime's block: the staircase of its kernels. Where only what a convolution writes is
worked on in blocks, what it reads counts as it is (`Exact`); where what is left over of a block is worked on more slowly than a
whole block, that there is something left over stands in the sums like a width (`Ragged`), and so does what is there only while a
Bottleneck is (`Present`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from toolchain.pruning.groups import Network
from toolchain.selection.shapes import EngineConv, engine_convs


class Exact(NamedTuple):
    """w_of, whatever the block is."""

    of: str


class Ragged(NamedTuple):
    """1 where `times` · w_of is no multiple of `block`, else 0."""

    of: str
    times: int
    block: int

    def at(self, width: float) -> int:
        """Where its group has that width."""
        return int(width * self.times % self.block != 0)


Width = str | Exact | Ragged  # of a group: rounded up to the block, as it is, or whether something is left over


class Present(NamedTuple):
    """The width `of`, or 1 where that is None, while the group `by` has channels; else 0: its Bottleneck is gone."""

    by: str
    of: Width | None = None


Term = Width | Present
Pair = tuple[Term, Term]
Sizes = Mapping[Width, float]  # of a plan


def group_of(width: Width) -> str:
    """The group whose width it is."""
    return width if isinstance(width, str) else width.of


def value(term: Term, sizes: Sizes) -> float:
    """Of a term, in a plan."""
    if isinstance(term, Ragged):
        return float(term.at(sizes[Exact(term.of)]))
    if not isinstance(term, Present):
        return sizes[term]
    return 0.0 if not sizes[term.by] else 1.0 if term.of is None else value(term.of, sizes)


class Counting(NamedTuple):
    """How channels count.

    Attributes:
        block: they are rounded up to it.
        exact_reads: but not those that are read.
        ragged: outputs left over of such a block cost something; 0: they do not.
    """

    block: int = 1
    exact_reads: bool = False
    ragged: int = 0

    def __str__(self) -> str:
        counted = f"{'outputs' if self.exact_reads else 'widths'} in blocks of {self.block}" if self.block > 1 else "as they are"
        return f"{counted}, more for outputs left over of {self.ragged}" if self.ragged else counted


@dataclass(frozen=True)
class Linear:
    """constant + Σ factors[g] · p(w_g)."""

    constant: float
    factors: Mapping[Term, float]

    def at(self, sizes: Sizes) -> float:
        """Its value in a plan."""
        return self.constant + sum(k * value(g, sizes) for g, k in self.factors.items())


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

    @property
    def counting(self) -> Counting:
        """How channels count in it."""
        widths = self._widths()
        left = next((term.block for term in widths if isinstance(term, Ragged)), 0)
        return Counting(self.block, any(isinstance(term, Exact) for term in widths), left)

    def _widths(self) -> list[Width | None]:
        terms = [*self.linear, *(term for pair in self.pair for term in pair)]
        return [term.of if isinstance(term, Present) else term for term in terms]

    def size(self, term: Width, width: int) -> int:
        """Of a term where its group has that width."""
        if isinstance(term, Ragged):
            return term.at(width)
        return -(-width // self.block) * self.block if isinstance(term, str) else width

    def sizes(self, widths: Mapping[str, int]) -> Sizes:
        """Of every group, rounded up and as it is."""
        return {term: float(self.size(term, w)) for g, w in widths.items() for term in (g, Exact(g))}

    def at(self, widths: Mapping[str, int]) -> float:
        """The cost of a plan that names every free group."""
        p = self.sizes(widths)
        return (
            self.constant
            + sum(k * value(g, p) for g, k in self.linear.items())
            + sum(k * value(g, p) * value(h, p) for (g, h), k in self.pair.items())
        )


def sides(network: Network, *, exact_reads: bool = False) -> dict[str, tuple[Linear, Linear]]:
    """Convolution of the engine -> what it reads and writes, in channels, as functions of the free groups' widths.

    Args:
        exact_reads: only what it writes is rounded up.
    """
    free = {g.name: g.channels for g in network.free}

    def side(total: int, parts: Mapping[str, int], conv: EngineConv, skips: Iterable[tuple[str, str]], *, exact: bool) -> Linear:
        factors: dict[Term, float] = {}
        for group, k in parts.items():
            if group in free:
                width = Exact(group) if exact else group
                factors[width if not conv.block or group in conv.block else Present(conv.block[0], width)] = float(k)
        for hidden, source in skips:
            width = Exact(source) if exact else source
            factors[width] -= 1.0
            factors[Present(hidden, width)] = 1.0
        return Linear(float(total - sum(k * free[g] for g, k in parts.items() if g in free)), factors)

    return {
        n: (side(c.inputs, c.reads, c, c.skips, exact=exact_reads), side(c.outputs, c.writes, c, (), exact=False))
        for n, c in engine_convs(network).items()
    }


def ragged(sides: Mapping[str, tuple[Linear, Linear]], block: int) -> dict[str, Linear]:
    """Convolution -> 1 where what it writes is no multiple of `block`, else 0; those that can tell by one group's width.

    None where `block` is 0: nothing left over counts.
    """
    found: dict[str, Linear] = {}
    if not block:
        return found
    for name, (_, writes) in sides.items():
        if len(writes.factors) == 1 and writes.constant % block == 0:
            ((term, k),) = writes.factors.items()
            width = term.of if isinstance(term, Present) else term
            if isinstance(width, str) and k % block:
                left = Ragged(width, int(k), block)
                found[name] = Linear(0.0, {Present(term.by, left) if isinstance(term, Present) else left: 1.0})
    return found


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
        if isinstance(one, Present) and one.of is not None and not isinstance(other, Present) and one.by == group_of(other):
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
