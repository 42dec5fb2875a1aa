"""How good a choice of widths can be at best: the budgets relaxed to prices (Lagrangian relaxation).

With a price on every budget, the best plan is found exactly (`elimination.py`): no plan within the budgets loses less than that,
at any prices. The best prices are found by cutting planes (Kelley 1960). The same tables tell the least that any plan with a
certain width can lose: a width that cannot beat a plan already known need not be looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolchain.pruning.groups import Widths
from toolchain.selection.elimination import Array, Sums

MOST_CUTS = 60
HIGHEST = 1e9  # a price, in losses of the best plan known
CLOSE = 1e-4  # relative: better prices are not worth another cut


@dataclass(frozen=True)
class Relaxed:
    """What the relaxation knows.

    Attributes:
        least: no plan within the limits loses less.
        prices: of each limit, in loss per whole budget, at which that is seen.
        plans: those met on the way, each the best at some prices, within the limits or not.
    """

    least: float
    prices: Array
    plans: list[Widths]


def relax(sums: Sums, known: Widths) -> Relaxed:
    """The prices at which the least loss of any plan within the limits is seen best.

    Args:
        known: a plan within the limits.
    """
    plans, cuts = [known], [sums.told(known)]
    for level in (sums.coarse(), sums):
        best, at = -math.inf, np.zeros(len(sums.fixed))
        for _ in range(MOST_CUTS):
            prices, ceiling = _best_prices(cuts)
            least, plan = level.minimum(prices)
            if least > best:
                best, at = least, prices
            if ceiling - best <= CLOSE * abs(ceiling):
                break
            plans.append(plan)
            cuts.append(sums.told(plan))
    return Relaxed(best, at, plans)


def _best_prices(cuts: Sequence[tuple[float, Array]]) -> tuple[Array, float]:
    """Where the least over the known plans of loss + prices · (costs - 1) is greatest, and how great."""
    from scipy.optimize import linprog

    losses, over = np.array([loss for loss, _ in cuts]), np.array([costs - 1 for _, costs in cuts])
    unit = max(float(losses[(over <= 0).all(axis=1)].min()), 1e-30)  # of the size of the answer, which the tolerances ask for
    rows = np.hstack([np.ones((len(cuts), 1)), -over])
    bounds = [(None, None), *[(0, HIGHEST)] * over.shape[1]]
    found = linprog([-1.0, *[0.0] * over.shape[1]], A_ub=rows, b_ub=losses / unit, bounds=bounds, method="highs-ds")
    return np.asarray(found.x[1:]) * unit, -float(found.fun) * unit
