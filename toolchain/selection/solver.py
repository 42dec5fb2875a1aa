"""The choice of widths: least predicted loss under every budget, exact to a stated gap.

First the budgets become prices, which gives a bound on what any plan can lose, good plans, and the widths that a better one could
have (`relaxation`): a fifth of them or less. Often a plan is good enough by that bound; else CP-SAT of OR-tools decides among the
rest. There a pair's product p(w_g)·p(w_h) is written as its convex hull: one copy of p(w_h) for each width of g, zero where g has
another width. What a Bottleneck costs only while it is there is a variable bounded from below alone: costs push it down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.errors import BudgetError
from toolchain.pruning.depth import Removal
from toolchain.pruning.groups import Widths
from toolchain.selection.cost import Cost, Present, Term, Width, group_of
from toolchain.selection.elimination import Options, Sums, cheapest
from toolchain.selection.relaxation import relax
from toolchain.selection.value import total

UNITS = 10**7  # a budget in whole numbers
LOSS_STEPS = 10**8  # resolution of the loss between its extremes


@dataclass(frozen=True)
class Limit:
    """A cost that must not exceed `most`, in `unit`."""

    name: str
    cost: Cost
    most: float
    unit: str = "of the dense engine's"


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
    removals: Sequence[Removal] = (), gap: float = 0.002, effort: float = 4.0, seed: int = 0,
) -> Choice:  # fmt: skip
    """Widths of least total loss within all limits; the same for the same arguments, whatever else the machine does.

    Args:
        options: group -> widths it may have, rising; 0 only for groups of `removals`.
        loss: group -> width -> predicted loss of that width, 0 or more; any unit.
        limits: the budgets; coefficients must not be negative.
        removals: the network's, if `options` let Bottlenecks go.
        gap: relative gap at which the solver may stop.
        effort: most work of CP-SAT in its own deterministic unit, which is some 15 s here; not by the clock.

    Raises:
        BudgetError: even the smallest network exceeds a limit; says which, and the least that can be reached.
    """
    started = time.monotonic()
    least = _least(options, limits, removals)
    sums = Sums.of(options, loss, [(limit.cost, limit.most) for limit in limits], removals)
    relaxed = relax(sums, least)
    known = min((sums.filled(plan) for plan in relaxed.plans if within(plan, limits)), key=lambda plan: sums.told(plan)[0])
    lost = sums.told(known)[0]
    found, bound = known, relaxed.least
    if lost - bound > gap * lost:
        least_losses = sums.marginals(relaxed.prices)
        for most in (bound * (1 + gap), lost):  # what is good enough first: few widths are in any such plan
            worth = {g: [w for w, one in zip(options[g], least_losses[g], strict=True) if one <= most] for g in options}
            if all(worth.values()) and most > bound:
                plan, proven = _Model(worth, loss, limits, removals, bound, most).solve(gap, effort / 2, seed)
                bound = max(bound, min(proven, lost))
                if plan is not None and total(loss, plan) < lost:
                    found, lost = plan, total(loss, plan)
            if lost - bound <= gap * lost:
                break
    lost = float(total(loss, found))
    return Choice(
        found, lost, max(lost - bound, 0.0) / lost if lost else 0.0, {limit.name: limit.cost.at(found) for limit in limits},
        time.monotonic() - started,
    )  # fmt: skip


def within(widths: Mapping[str, int], limits: Sequence[Limit]) -> bool:
    """Whether a plan exceeds none of the limits."""
    return all(limit.cost.at(widths) <= limit.most for limit in limits)


def _least(options: Options, limits: Sequence[Limit], removals: Sequence[Removal]) -> Widths:
    """A plan within all limits.

    Raises:
        BudgetError: there is none for one of them; or none was found for all of them together.
    """
    plans = [cheapest(options, [(limit.cost, limit.most)], removals) for limit in limits]
    for limit, plan in zip(limits, plans, strict=True):
        if (lowest := limit.cost.at(plan)) > limit.most:
            reached = f"the least that can be reached is {lowest:.4g} {limit.unit}"
            raise BudgetError(
                f"the {limit.name} budget cannot be reached by narrower layers", got=f"{limit.most:.4g} {limit.unit}",
                fix=f"{reached}; a smaller picture (--imgsz) or model goes further",
            )  # fmt: skip
    for plan in plans:
        if within(plan, limits):
            return plan
    if within(together := cheapest(options, [(limit.cost, limit.most) for limit in limits], removals), limits):
        return together
    got = ", ".join(f"{limit.name} {limit.most:.4g} {limit.unit}" for limit in limits)
    raise BudgetError("the budgets cannot be reached together", got=got, fix="loosen one of them")


class _Model:
    def __init__(
        self, options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit],
        removals: Sequence[Removal], bound: float, most: float,
    ) -> None:  # fmt: skip
        from ortools.sat.python import cp_model

        self.options = options
        self.model: Any = cp_model.CpModel()
        self.chosen = {g: {w: self.model.new_bool_var(f"{g}={w}") for w in widths} for g, widths in options.items()}
        for flags in self.chosen.values():
            self.model.add_exactly_one(flags.values())
        self._products: dict[tuple[Term, Term, int], list[tuple[int, Any]]] = {}
        self._parts: dict[tuple[Present, int], Any] = {}
        self._together(removals)
        for limit in limits:
            self._limit(limit)
        extremes = [max(curve.values()) for curve in loss.values()]
        self.scale = LOSS_STEPS / max(sum(extremes), 1e-30)
        lost = sum(round(loss[g][w] * self.scale) * x for g, flags in self.chosen.items() for w, x in flags.items())
        self.most, rounded = most, len(options)
        self.model.add_linear_constraint(lost, int(bound * self.scale) - rounded, int(most * self.scale) + rounded)
        self.model.minimize(lost)

    def _together(self, removals: Sequence[Removal]) -> None:
        """The groups of a Bottleneck are empty together, and with those of the Bottleneck it takes along."""
        hidden = {removal.block: removal.hidden for removal in removals}
        gone = {group: flags.get(0, 0) for group, flags in self.chosen.items()}
        for removal in removals:
            for group in removal.groups[1:]:
                self.model.add(gone[group] == gone[removal.hidden])
            if removal.takes:
                self.model.add(gone[removal.hidden] <= gone[hidden[removal.takes]])

    def _limit(self, limit: Limit) -> None:
        """Σ coefficients · variables ≤ budget, in whole units of the budget / UNITS, rounded up so that none is exceeded."""
        cost, scale = limit.cost, UNITS / limit.most
        terms: list[Any] = []
        for term, k in cost.linear.items():
            if not isinstance(term, Present):
                terms += [round(k * cost.size(term, w) * scale) * x for w, x in self.chosen[group_of(term)].items()]
            elif term.of is None:
                terms += [round(k * scale) * x for w, x in self.chosen[term.by].items() if w]
            else:
                terms.append(round(k * self._unit(term.of, cost) * scale) * self._units(term, cost))
        for (g, h), k in cost.pair.items():
            terms += [round(k * factor * scale) * y for factor, y in self._product(g, h, cost)]
        self.model.add(sum(terms) <= round((limit.most - cost.constant) * scale))

    def _unit(self, width: Width, cost: Cost) -> int:
        """All its sizes are multiples of it: the fewer a variable can have, the easier the model is."""
        return math.gcd(*(cost.size(width, w) for w in self.options[group_of(width)])) or 1

    def _units(self, term: Term, cost: Cost) -> Any:
        """Its size / unit: exact for a group, at least that for what may go."""
        if not isinstance(term, Present):
            unit = self._unit(term, cost)
            return sum(cost.size(term, w) // unit * x for w, x in self.chosen[group_of(term)].items())
        assert term.of is not None
        key = (term, cost.block)
        if key not in self._parts:
            high = self._highest(term.of, cost)
            self._parts[key] = self.model.new_int_var(0, high, f"{term.of} while {term.by}")
            gone = self.chosen[term.by].get(0, 0)
            self.model.add(self._parts[key] >= self._units(term.of, cost) - high * gone)
        return self._parts[key]

    def _highest(self, width: Width, cost: Cost) -> int:
        return max(cost.size(width, w) for w in self.options[group_of(width)]) // self._unit(width, cost)

    def _product(self, g: Term, h: Term, cost: Cost) -> list[tuple[int, Any]]:
        """Their product as Σ factor · variable."""
        if isinstance(g, Present) or (
            not isinstance(h, Present) and len(self.options[group_of(g)]) > len(self.options[group_of(h)])
        ):
            g, h = h, g
        # no convolution both reads and writes something that may go, but through a Bottleneck's channels
        assert not isinstance(g, Present)
        key = (g, h, cost.block)
        if key not in self._products:
            if not isinstance(h, Present) and group_of(g) == group_of(h):
                self._products[key] = [(cost.size(g, w) * cost.size(h, w), x) for w, x in self.chosen[group_of(g)].items()]
            else:
                self._products[key] = self._hull(g, h, cost)
        return self._products[key]

    def _hull(self, g: Width, h: Term, cost: Cost) -> list[tuple[int, Any]]:
        inner = h.of if isinstance(h, Present) else h
        assert inner is not None
        unit, most = self._unit(inner, cost), self._highest(inner, cost)
        least = 0 if isinstance(h, Present) else min(cost.size(inner, w) for w in self.options[group_of(inner)]) // unit
        copies = []
        for width, x in self.chosen[group_of(g)].items():
            copy = self.model.new_int_var(0, most, f"{g}={width}*{h}")
            self.model.add(copy <= most * x)
            self.model.add(copy >= least * x)
            copies.append((cost.size(g, width) * unit, copy))
        self.model.add(sum(copy for _, copy in copies) == self._units(h, cost))
        return copies

    def solve(self, gap: float, effort: float, seed: int) -> tuple[Widths | None, float]:
        """Widths, if some were found, and the loss below which there are none."""
        from ortools.sat.python import cp_model

        solver: Any = cp_model.CpSolver()
        solver.parameters.num_workers, solver.parameters.random_seed = 1, seed  # the same answer, whatever the machine does
        solver.parameters.linearization_level = 2
        solver.parameters.max_deterministic_time, solver.parameters.relative_gap_limit = effort, gap
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return None, self.most
        bound = (solver.best_objective_bound - len(self.options) / 2) / self.scale  # less what may have been rounded
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, bound
        return {g: next(w for w, x in flags.items() if solver.boolean_value(x)) for g, flags in self.chosen.items()}, bound
