"""Losses and costs of plans as tables over a few groups each, and their exact minimum at given prices of the budgets.

The groups of a YOLO hang together almost like a chain, so a sum over groups, pairs, and a Bottleneck with two others has its
exact minimum by eliminating group after group (bucket elimination, Dechter 1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from toolchain.pruning.depth import Removal
from toolchain.pruning.groups import Widths
from toolchain.selection.cost import Cost, Present, Term, Width, group_of

Array = NDArray[np.float64]
Scope = tuple[str, ...]
Options = Mapping[str, Sequence[int]]
FORBIDDEN = 1e6  # times the sum of all losses: more than any plan can lose
COARSE = 10  # widths a group of a coarse question


class Sums:
    """Losses and costs as tables over a few groups each, and an order in which groups are eliminated.

    Attributes:
        options: group -> widths it may have.
        losses: scope -> table of losses.
        costs: scope -> (limits, ...) tables, as shares of each budget.
        fixed: (limits,) what every plan costs.
    """

    def __init__(self, options: Options, losses: dict[Scope, Array], costs: dict[Scope, Array], fixed: Array) -> None:
        self.options, self.losses, self.costs, self.fixed = options, losses, costs, fixed
        self.order = _order({g: len(widths) for g, widths in options.items()}, [*losses, *costs])

    @staticmethod
    def of(
        options: Options, loss: Mapping[str, Mapping[int, float]], limits: Sequence[tuple[Cost, float]],
        removals: Sequence[Removal],
    ) -> Sums:  # fmt: skip
        """Of a question to the solver.

        Args:
            limits: costs and what they must not exceed.
        """
        losses: dict[Scope, Array] = {(g,): np.array([loss[g][w] for w in widths]) for g, widths in options.items()}
        never = FORBIDDEN * max(sum(float(table.max()) for table in losses.values()), 1e-9)
        gone = {g: np.array(widths) == 0 for g, widths in options.items()}
        hidden = {removal.block: removal.hidden for removal in removals}
        for removal in removals:
            mine = gone[removal.hidden][:, None]
            for other in removal.groups[1:]:
                _add(losses, (removal.hidden, other), never * (mine != gone[other]))
            if removal.takes and mine.any():
                _add(losses, (removal.hidden, hidden[removal.takes]), never * (mine & ~gone[hidden[removal.takes]]))
        costs: dict[Scope, Array] = {}
        for i, (cost, most) in enumerate(limits):
            for scope, table in _tables(cost, options):
                share = np.zeros((len(limits), *table.shape))
                share[i] = table / most
                _add(costs, scope, share)
        return Sums(options, losses, costs, np.array([cost.constant / most for cost, most in limits]))

    def coarse(self) -> Sums:
        """The same with few widths a group: each of its plans is one of the whole, too."""
        kept = {g: np.unique(np.linspace(0, len(w) - 1, COARSE).round().astype(int)) for g, w in self.options.items()}
        kept = {g: np.union1d(at, np.arange(min(2, len(self.options[g])))) for g, at in kept.items()}  # 0 and the narrowest
        return self._only(kept)

    def _only(self, kept: Mapping[str, NDArray[np.int64]]) -> Sums:
        options = {g: [self.options[g][i] for i in at] for g, at in kept.items()}
        losses = {scope: table[np.ix_(*(kept[g] for g in scope))] for scope, table in self.losses.items()}
        costs = {scope: t[np.ix_(np.arange(len(t)), *(kept[g] for g in scope))] for scope, t in self.costs.items()}
        return Sums(options, losses, costs, self.fixed)

    def told(self, plan: Mapping[str, int]) -> tuple[float, Array]:
        """Loss of a plan, and (limits,) its costs as shares of the budgets."""
        at = {g: widths.index(plan[g]) for g, widths in self.options.items()}
        loss = sum(float(table[tuple(at[g] for g in scope)]) for scope, table in self.losses.items())
        costs = [[one[tuple(at[g] for g in scope)] for one in table] for scope, table in self.costs.items()]
        return loss, self.fixed + np.sum(costs, axis=0)

    def filled(self, plan: Mapping[str, int]) -> Widths:
        """A plan within the limits, and again and again the one change of a width that saves most of its loss within them."""
        at = {g: widths.index(plan[g]) for g, widths in self.options.items()}
        near: dict[str, list[Scope]] = {group: [] for group in self.options}
        for scope in {**self.losses, **self.costs}:
            for group in scope:
                near[group].append(scope)
        costs = self.told(plan)[1]
        while True:
            best: tuple[float, str, int, Array] | None = None
            for group, scopes in near.items():
                loss, cost = np.zeros(len(self.options[group])), np.zeros((len(costs), len(self.options[group])))
                for scope in scopes:
                    column = tuple(slice(None) if g == group else at[g] for g in scope)
                    loss += self.losses[scope][column] if scope in self.losses else 0.0
                    cost += self.costs[scope][(slice(None), *column)] if scope in self.costs else 0.0
                now = at[group]
                moved = costs[:, None] + cost - cost[:, [now]]
                saved = np.where((moved <= 1).all(axis=0), loss[now] - loss, 0.0)
                i = int(np.argmax(saved))
                if saved[i] > (best[0] if best else 0.0):
                    best = (float(saved[i]), group, i, moved[:, i])
            if best is None:
                return {group: self.options[group][i] for group, i in at.items()}
            _, group, at[group], costs = best

    def minimum(self, prices: Array) -> tuple[float, Widths]:
        """Least loss + prices · (costs - 1) over all plans, whatever they cost, and a plan that has it."""
        buckets, _, constant = self._forward(prices)
        at: dict[str, int] = {}
        for group in reversed(self.order):
            column = np.zeros(len(self.options[group]))
            for scope, table in buckets[group]:
                column += table[tuple(slice(None) if g == group else at[g] for g in scope)]
            at[group] = int(np.argmin(column))
        return constant, {group: self.options[group][at[group]] for group in self.options}

    def marginals(self, prices: Array) -> dict[str, Array]:
        """Group -> for every width, that minimum over the plans that have it."""
        buckets, messages, constant = self._forward(prices)
        children: dict[str, list[str]] = {}
        for child, (shared, _) in messages.items():
            children.setdefault(shared[0], []).append(child)
        found: dict[str, Array] = {}
        for group in reversed(self.order):
            scope, table = self._summed(group, buckets.pop(group))
            if group not in messages:  # nothing is left when it is eliminated: the parts that do not hang together with it
                table += constant - table.min()
            found[group] = table.min(axis=tuple(range(1, table.ndim)))
            for child in children.get(group, ()):
                shared, message = messages[child]
                least = table.min(axis=tuple(i for i, g in enumerate(scope) if g not in shared))
                buckets[child].append((shared, least - message))
        return found

    def _forward(self, prices: Array) -> tuple[dict[str, list[tuple[Scope, Array]]], dict[str, tuple[Scope, Array]], float]:
        """Eliminate all groups: group -> its tables; group -> what is left of them, by the groups it depends on; the minimum."""
        buckets: dict[str, list[tuple[Scope, Array]]] = {group: [] for group in self.order}
        rank = {group: i for i, group in enumerate(self.order)}
        for scope in {**self.losses, **self.costs}:
            table = np.zeros([len(self.options[g]) for g in scope])
            if scope in self.losses:
                table += self.losses[scope]
            if scope in self.costs:
                table += np.tensordot(prices, self.costs[scope], axes=1)
            buckets[min(scope, key=rank.__getitem__)].append((scope, table))
        messages: dict[str, tuple[Scope, Array]] = {}
        constant = float(prices @ (self.fixed - 1))
        for group in self.order:
            scope, table = self._summed(group, buckets[group])
            message = table.min(axis=0)
            if len(scope) == 1:
                constant += float(message)
            else:
                messages[group] = (scope[1:], message)
                buckets[scope[1]].append((scope[1:], message))
        return buckets, messages, constant

    def _summed(self, group: str, tables: Sequence[tuple[Scope, Array]]) -> tuple[Scope, Array]:
        """The sum of a bucket's tables over all their groups: the bucket's own first, the others in the order of elimination."""
        rank = {g: i for i, g in enumerate(self.order)}
        scope = tuple(sorted({g for one, _ in tables for g in one}, key=rank.__getitem__))
        assert scope[0] == group
        total = np.zeros([len(self.options[g]) for g in scope])
        for one, table in tables:
            axes = sorted(range(len(one)), key=lambda i: rank[one[i]])
            total += table.transpose(axes).reshape([len(self.options[g]) if g in one else 1 for g in scope])
        return scope, total


def cheapest(options: Options, costs: Sequence[tuple[Cost, float]], removals: Sequence[Removal]) -> Widths:
    """The plan of least cost, whatever it loses; of several costs, of the least sum as shares of their limits.

    That is not always the narrowest: what is left over of a block may take longer than a whole one.
    """
    same = {group: dict.fromkeys(widths, 1.0) for group, widths in options.items()}
    return Sums.of(options, same, costs, removals).minimum(np.ones(len(costs)))[1]


def _order(sizes: Mapping[str, int], scopes: Iterable[Scope]) -> list[str]:
    """Groups as they are eliminated: always the one whose table is smallest."""
    near: dict[str, set[str]] = {group: set() for group in sizes}
    for scope in scopes:
        for group in scope:
            near[group] |= set(scope) - {group}
    order: list[str] = []
    while near:
        group = min(near, key=lambda g: (sizes[g] * math.prod(sizes[h] for h in near[g]), g))
        for other in near[group]:
            near[other] = (near[other] | near[group]) - {group, other}
        order.append(group)
        del near[group]
    return order


def _tables(cost: Cost, options: Options) -> Iterable[tuple[Scope, Array]]:
    """A cost's sums as tables."""
    for term, k in cost.linear.items():
        scope = _groups(term)
        yield scope, k * _values(term, scope, cost, options)
    for (one, other), k in cost.pair.items():
        scope = tuple(dict.fromkeys((*_groups(one), *_groups(other))))
        yield scope, k * _values(one, scope, cost, options) * _values(other, scope, cost, options)


def _groups(term: Term) -> Scope:
    if not isinstance(term, Present):
        return (group_of(term),)
    return (term.by,) if term.of is None else (term.by, group_of(term.of))


def _values(term: Term, scope: Scope, cost: Cost, options: Options) -> Array:
    """Of a term, over a scope that has its groups; 1 wide along the others."""

    def along(group: str, values: list[float]) -> Array:
        return np.array(values).reshape([-1 if g == group else 1 for g in scope])

    def sizes(width: Width) -> Array:
        return along(group_of(width), [float(cost.size(width, kept)) for kept in options[group_of(width)]])

    if not isinstance(term, Present):
        return sizes(term)
    there = along(term.by, [float(width > 0) for width in options[term.by]])
    return there if term.of is None else there * sizes(term.of)


def _add(tables: dict[Scope, Array], scope: Scope, table: Array) -> None:
    """One table for each set of groups; `table` may have an axis in front."""
    for other in tables:
        if set(other) == set(scope):
            axes = [scope.index(g) for g in other]
            front = table.ndim - len(scope)
            tables[other] = tables[other] + table.transpose([*range(front), *(front + i for i in axes)])
            return
    tables[scope] = np.array(table, dtype=np.float64)
