"""Ways to propose widths within limits: exactly, or by the one number that a strategy takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

from toolchain.errors import BudgetError
from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.depth import Removal
from toolchain.pruning.groups import Network
from toolchain.selection.solver import Choice, Limit, solve, within
from toolchain.selection.staircase import Options, useful
from toolchain.selection.strategies import STRATEGIES, Ask
from toolchain.selection.value import Loss, total

MOST, STEPS = 0.99, 14  # largest ratio tried; halvings: ratios are told apart to 0.0001
End = Mapping[str, int] | None  # a plan, or open
Among = tuple[End, End]  # between which every width is to lie


class Propose(Protocol):
    """Limits -> a plan within them; with `among`, of those between two plans where the way can tell."""

    def __call__(self, limits: Sequence[Limit], among: Among | None = None) -> Choice: ...


def exact(
    options: Options, loss: Loss, seed: int, *, removals: Sequence[Removal] = (), gap: float = 0.002, effort: float = 4.0
) -> Propose:
    """The plan of least predicted loss, to a stated gap; widths that buy nothing are not offered to the solver."""

    def propose(limits: Sequence[Limit], among: Among | None = None) -> Choice:
        offered = useful(options if among is None else _between(options, among), [limit.cost for limit in limits])
        return solve(offered, loss, limits, removals=removals, gap=gap, effort=effort, seed=seed)

    return propose


def _between(options: Options, among: Among) -> dict[str, list[int]]:
    below, above = among

    def ends(group: str) -> tuple[float, float]:
        if below is not None and above is not None:
            return min(below[group], above[group]), max(below[group], above[group])
        return (-inf if below is None else below[group]), (inf if above is None else above[group])

    return {group: [w for w in widths if ends(group)[0] <= w <= ends(group)[1]] for group, widths in options.items()}


def by_ratio(strategy: str, network: Network, scores: GroupScores, ask: Ask, loss: Loss) -> Propose:
    """The smallest ratio at which a strategy's plan is within all limits; its plans are between each other anyway."""

    def propose(limits: Sequence[Limit], among: Among | None = None) -> Choice:
        started, low, high = time.monotonic(), 0.0, MOST
        if not within(plan(high), limits):
            raise BudgetError(f"the {strategy} strategy cannot reach the budget", got=f"over it even at ratio {MOST}")
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if within(plan(middle), limits) else (middle, high)
        widths = plan(high)
        costs = {limit.name: limit.cost.at(widths) for limit in limits}
        return Choice(widths, total(loss, widths), None, costs, time.monotonic() - started)

    def plan(ratio: float) -> dict[str, int]:
        return STRATEGIES[strategy](network, scores, replace(ask, ratio=ratio))

    return propose
