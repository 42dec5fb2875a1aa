"""What other budgets would cost: the plans of least predicted loss around the one that was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolchain import progress
from toolchain.errors import BudgetError
from toolchain.pruning.depth import Removal
from toolchain.selection.propose import exact
from toolchain.selection.solver import Limit
from toolchain.selection.staircase import Options
from toolchain.selection.value import Loss

FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6)  # of the latency asked for
EFFORT, GAP = 0.4, 0.01  # a point of a picture needs no closer proof


@dataclass(frozen=True)
class Point:
    """A plan of least predicted loss.

    Attributes:
        share: the budget, as a share of the dense engine's latency.
        latency: predicted, the same unit.
        gap: how far `loss` may be from the best possible, relative.
    """

    share: float
    latency: float
    loss: float
    gap: float | None
    seconds: float


def front(
    options: Options, loss: Loss, limits: Sequence[Limit], *, removals: Sequence[Removal] = (), seed: int = 0,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Solve for budgets around the first limit's, by one and the same latency model; the other limits hold for all.

    Args:
        known: what this function returned before; used where it answers the same question.

    Returns:
        key: of the question. points: by rising latency, without those that another beats in both. failed: budget -> why it has
        no point.
    """
    key = hashlib.sha256(repr((FACTORS, options, loss, limits, removals, seed)).encode()).hexdigest()[:16]
    if known and known["key"] == key:
        return dict(known)
    latency, others = limits[0], limits[1:]
    propose = exact(options, loss, seed, removals=removals, gap=GAP, effort=EFFORT)
    whole = latency.cost.at({group: max(widths) for group, widths in options.items()})
    found: list[Point] = []
    failed: dict[str, str] = {}
    shares = [factor * latency.most for factor in FACTORS if factor * latency.most < whole]
    with progress.task("Plans for other budgets", total=len(shares), unit="budgets") as task:
        for share in shares:
            limit = Limit(latency.name, latency.cost, share)
            try:
                choice = propose([limit, *others])
            except BudgetError as error:  # a picture with a point less; the plan itself is not in doubt
                failed[f"{share:.3f}"] = error.what
            else:
                found.append(Point(share, choice.costs[latency.name], choice.loss, choice.gap, choice.seconds))
            task.advance()
    return {"key": key, "points": [asdict(point) for point in best(found)], "failed": failed}


def best(points: Sequence[Point]) -> list[Point]:
    """By rising latency and falling loss: what another point beats in both is left out."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.latency, one.loss)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return kept
