"""The choice of widths: least predicted loss under every budget, exact to a stated gap (CP-SAT of OR-tools).

A pair's product p(w_g)·p(w_h) is written as its convex hull: one copy of p(w_h) for each width of g, zero where g has another
width. That keeps the linear relaxation tight; the plain product constraint leaves gaps of 20 % after 20 s on YOLOv8n.

What a Bottleneck costs only while it is there is a variable bounded from below alone: costs push it down to its true value.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolchain.errors import BudgetError
from toolchain.pruning.depth import Removal
from toolchain.selection.cost import Cost, Present, Term

Widths = dict[str, int]
UNITS = 10**7  # a budget in whole numbers
LOSS_STEPS = 10**6  # resolution of the loss between its extremes


@dataclass(frozen=True)
class Limit:
    """A cost that must not exceed `most`."""

    name: str
    cost: Cost
    most: float


@dataclass(frozen=True)
class Choice:
    """Widths and what is known about them.

    Attributes:
        loss: predicted loss.
        gap: how far `loss` may be from the best possible, relative; 0 is proven best; None where nothing is proven.
        costs: limit -> its cost.
    """

    widths: Widths
    loss: float
    gap: float | None
    costs: dict[str, float]
    seconds: float


def solve(
    options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit], *,
    removals: Sequence[Removal] = (), gap: float = 0.002, seconds: float = 60.0, seed: int = 0, workers: int = 2,
) -> Choice:  # fmt: skip
    """Widths of least total loss within all limits.

    Args:
        options: group -> widths it may have, rising; 0 only for groups of `removals`.
        loss: group -> width -> predicted loss of that width; any unit.
        limits: the budgets; coefficients must not be negative.
        removals: the network's, if `options` let Bottlenecks go.
        gap: relative gap at which the solver may stop.

    Raises:
        BudgetError: even the smallest network exceeds a limit; says which, and the least that can be reached.
    """
    least = {group: min(widths) for group, widths in options.items()}
    for limit in limits:
        if (lowest := limit.cost.at(least)) > limit.most:
            raise BudgetError(
                f"the {limit.name} budget cannot be reached by narrower layers", got=f"{limit.most:.4g}",
                fix=f"the least that can be reached is {lowest:.4g}; a smaller picture (--imgsz) or model goes further",
            )  # fmt: skip
    started, start = time.monotonic(), least
    if any(0 in widths for widths in options.values()):
        start = _narrower(options, loss, limits, gap, seconds / 3, seed, workers) or least
        seconds *= 2 / 3
    choice = _Model(options, loss, limits, removals, start).solve(gap, seconds, seed, workers)
    return replace(choice, seconds=time.monotonic() - started)


def _narrower(
    options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit], gap: float,
    seconds: float, seed: int, workers: int,
) -> Widths | None:  # fmt: skip
    """The best plan with all Bottlenecks: a good start for the search with fewer; None where none is within the limits."""
    there = {group: [width for width in widths if width] for group, widths in options.items()}
    least = {group: min(widths) for group, widths in there.items()}
    if any(limit.cost.at(least) > limit.most for limit in limits):
        return None
    try:
        return _Model(there, loss, limits, (), least).solve(gap, seconds, seed, workers).widths
    except BudgetError:  # no time was left to find one
        return None


class _Model:
    def __init__(
        self, options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit],
        removals: Sequence[Removal], start: Widths,
    ) -> None:  # fmt: skip
        from ortools.sat.python import cp_model

        self.options, self.loss, self.limits = options, loss, limits
        self.model: Any = cp_model.CpModel()
        self.chosen = {g: {w: self.model.new_bool_var(f"{g}={w}") for w in widths} for g, widths in options.items()}
        for flags in self.chosen.values():
            self.model.add_exactly_one(flags.values())
        self._products: dict[tuple[Term, Term, int], list[tuple[int, Any]]] = {}
        self._parts: dict[tuple[Present, int], Any] = {}
        self._together(removals)
        for group, flags in self.chosen.items():  # a plan within all limits: on a busy machine the first plan takes long
            for width, x in flags.items():
                self.model.add_hint(x, width == start[group])
        for limit in limits:
            self._limit(limit)
        extremes = [max(curve.values()) for curve in loss.values()]
        self.scale = LOSS_STEPS / max(sum(extremes), 1e-30)
        self.model.minimize(sum(round(loss[g][w] * self.scale) * x for g, flags in self.chosen.items() for w, x in flags.items()))

    def _together(self, removals: Sequence[Removal]) -> None:
        """The groups of a Bottleneck are empty together, and with those of the Bottleneck it takes along."""
        hidden = {removal.block: removal.hidden for removal in removals}
        for removal in removals:
            gone = self.chosen[removal.hidden].get(0)
            if gone is None:
                continue
            for group in removal.groups[1:]:
                self.model.add(self.chosen[group][0] == gone)
            if removal.takes:
                self.model.add_implication(gone, self.chosen[hidden[removal.takes]][0])

    def _limit(self, limit: Limit) -> None:
        """Σ coefficients · variables ≤ budget, in whole units of the budget / UNITS, rounded up so that none is exceeded."""
        cost, scale = limit.cost, UNITS / limit.most
        terms: list[Any] = []
        for term, k in cost.linear.items():
            if isinstance(term, str):
                terms += [round(k * cost.padded(w) * scale) * x for w, x in self.chosen[term].items()]
            elif term.of is None:
                terms += [round(k * scale) * x for w, x in self.chosen[term.by].items() if w]
            else:
                terms.append(round(k * cost.block * scale) * self._blocks(term, cost))
        for (g, h), k in cost.pair.items():
            terms += [round(k * cost.block * p * scale) * y for p, y in self._product(g, h, cost)]
        self.model.add(sum(terms) <= round((limit.most - cost.constant) * scale))

    def _blocks(self, term: Term, cost: Cost) -> Any:
        """Its padded width / block: exact for a group, at least that for what may go."""
        if isinstance(term, str):
            return sum(cost.padded(w) // cost.block * x for w, x in self.chosen[term].items())
        assert term.of is not None
        key = (term, cost.block)
        if key not in self._parts:
            high = self._highest(term.of, cost)
            self._parts[key] = self.model.new_int_var(0, high, f"{term.of} while {term.by}")
            gone = self.chosen[term.by].get(0, 0)
            self.model.add(self._parts[key] >= self._blocks(term.of, cost) - high * gone)
        return self._parts[key]

    def _highest(self, group: str, cost: Cost) -> int:
        return cost.padded(max(self.options[group])) // cost.block

    def _product(self, g: Term, h: Term, cost: Cost) -> list[tuple[int, Any]]:
        """p(w_g)·p(w_h) / block as Σ factor · variable."""
        if not isinstance(g, str) or (isinstance(h, str) and len(self.options[g]) > len(self.options[h])):
            g, h = h, g
        assert isinstance(
            g, str
        )  # no convolution both reads and writes something that may go, but through a Bottleneck's channels
        key = (g, h, cost.block)
        if key not in self._products:
            if g == h:
                padded = {w: cost.padded(w) for w in self.options[g]}
                self._products[key] = [(padded[w] * padded[w] // cost.block, x) for w, x in self.chosen[g].items()]
            else:
                self._products[key] = self._hull(g, h, cost)
        return self._products[key]

    def _hull(self, g: str, h: Term, cost: Cost) -> list[tuple[int, Any]]:
        least = cost.padded(min(self.options[h])) // cost.block if isinstance(h, str) else 0
        most = self._highest(h if isinstance(h, str) else str(h.of), cost)
        copies = []
        for width, x in self.chosen[g].items():
            copy = self.model.new_int_var(0, most, f"{g}={width}*{h}")
            self.model.add(copy <= most * x)
            self.model.add(copy >= least * x)
            copies.append((cost.padded(width), copy))
        self.model.add(sum(copy for _, copy in copies) == self._blocks(h, cost))
        return copies

    def solve(self, gap: float, seconds: float, seed: int, workers: int) -> Choice:
        from ortools.sat.python import cp_model

        solver: Any = cp_model.CpSolver()
        solver.parameters.num_workers, solver.parameters.random_seed = workers, seed
        solver.parameters.interleave_search = True  # the same answer for the same seed, whatever the machine does
        solver.parameters.max_time_in_seconds, solver.parameters.relative_gap_limit = seconds, gap
        status = solver.solve(self.model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise BudgetError(
                "no plan was found within the budgets", got=f"{solver.status_name(status)} after {solver.wall_time:.0f} s",
                fix="the budgets may contradict each other; give the solver longer, or loosen one",
            )  # fmt: skip
        widths = {g: next(w for w, x in flags.items() if solver.boolean_value(x)) for g, flags in self.chosen.items()}
        value, bound = solver.objective_value, solver.best_objective_bound
        return Choice(
            widths, sum(self.loss[g][w] for g, w in widths.items()), (value - bound) / max(abs(value), 1.0),
            {limit.name: limit.cost.at(widths) for limit in self.limits}, solver.wall_time,
        )  # fmt: skip
