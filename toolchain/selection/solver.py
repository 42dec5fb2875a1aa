"""The choice of widths: least predicted loss under every budget, exact to a stated gap (CP-SAT of OR-tools).

A pair's product p(w_g)·p(w_h) is written as its convex hull: one copy of p(w_h) for each width of g, zero where g has another
width. That keeps the linear relaxation tight; the plain product constraint leaves gaps of 20 % after 20 s on YOLOv8n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.errors import BudgetError
from toolchain.selection.cost import Cost

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
        gap: how far `loss` may be from the best possible, relative; 0 is proven best.
        costs: limit -> its cost.
    """

    widths: Widths
    loss: float
    gap: float
    costs: dict[str, float]
    seconds: float


def solve(
    options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit], *,
    gap: float = 0.002, seconds: float = 60.0, seed: int = 0, workers: int = 2,
) -> Choice:  # fmt: skip
    """Widths of least total loss within all limits.

    Args:
        options: group -> widths it may have, rising.
        loss: group -> width -> predicted loss of that width; any unit.
        limits: the budgets; coefficients must not be negative.
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
    return _Model(options, loss, limits).solve(gap, seconds, seed, workers)


class _Model:
    def __init__(
        self, options: Mapping[str, Sequence[int]], loss: Mapping[str, Mapping[int, float]], limits: Sequence[Limit]
    ) -> None:
        from ortools.sat.python import cp_model

        self.options, self.loss, self.limits = options, loss, limits
        self.model: Any = cp_model.CpModel()
        self.chosen = {g: {w: self.model.new_bool_var(f"{g}={w}") for w in widths} for g, widths in options.items()}
        for flags in self.chosen.values():
            self.model.add_exactly_one(flags.values())
        self._products: dict[tuple[str, str, int], list[tuple[int, Any]]] = {}
        for limit in limits:
            self._limit(limit)
        extremes = [max(curve.values()) for curve in loss.values()]
        self.scale = LOSS_STEPS / max(sum(extremes), 1e-30)
        self.model.minimize(sum(round(loss[g][w] * self.scale) * x for g, flags in self.chosen.items() for w, x in flags.items()))

    def _limit(self, limit: Limit) -> None:
        """Σ coefficients · variables ≤ budget, in whole units of the budget / UNITS, rounded up so that none is exceeded."""
        cost, scale = limit.cost, UNITS / limit.most
        terms: list[Any] = []
        for group, k in cost.linear.items():
            terms += [round(k * cost.padded(w) * scale) * x for w, x in self.chosen[group].items()]
        for (g, h), k in cost.pair.items():
            terms += [round(k * cost.block * p * scale) * y for p, y in self._product(g, h, cost)]
        self.model.add(sum(terms) <= round((limit.most - cost.constant) * scale))

    def _product(self, g: str, h: str, cost: Cost) -> list[tuple[int, Any]]:
        """p(w_g)·p(w_h) / block as Σ factor · variable."""
        if len(self.options[g]) > len(self.options[h]):
            g, h = h, g
        key = (g, h, cost.block)
        if key not in self._products:
            blocks = {w: cost.padded(w) // cost.block for w in self.options[h]}
            if g == h:
                self._products[key] = [(cost.padded(w) * blocks[w], x) for w, x in self.chosen[g].items()]
            else:
                self._products[key] = self._hull(g, h, blocks, cost)
        return self._products[key]

    def _hull(self, g: str, h: str, blocks: Mapping[int, int], cost: Cost) -> list[tuple[int, Any]]:
        low, high = min(blocks.values()), max(blocks.values())
        copies = []
        for width, x in self.chosen[g].items():
            copy = self.model.new_int_var(0, high, f"{g}={width}*{h}")
            self.model.add(copy <= high * x)
            self.model.add(copy >= low * x)
            copies.append((cost.padded(width), copy))
        self.model.add(sum(copy for _, copy in copies) == sum(blocks[w] * x for w, x in self.chosen[h].items()))
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
