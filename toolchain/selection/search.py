"""Solve, build, time, learn, solve again: until the engine measured on the device meets the budget.

spread plans ─ timed ─ latency model ─┐
value of every width ─────────────────┴ solver ─ plan ─ timed ─ within 2 %? ─ no: learn from it and solve again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolchain import progress
from toolchain.device.sweep import Timing, steady
from toolchain.errors import BudgetError
from toolchain.pruning.groups import Network
from toolchain.selection import latency
from toolchain.selection.cost import Cost, scaled, weights
from toolchain.selection.latency import LatencyModel
from toolchain.selection.sampling import spread_plans
from toolchain.selection.solver import Choice, Limit, solve
from toolchain.selection.timed import Timed
from toolchain.selection.value import Loss

TOLERANCE = 0.02
AIM = 0.995  # of the budget: a plan a little below it is as good as one a little above, and never over


@dataclass(frozen=True)
class Round:
    """One turn of the loop: what was predicted and what was measured, as shares of the dense engine's latency."""

    predicted: float
    measured: float
    error: float
    loss: float
    gap: float
    widths: dict[str, int]
    solver_s: float


@dataclass(frozen=True)
class Found:
    """The plan that was chosen, and how it came about."""

    widths: dict[str, int]
    rounds: list[Round]
    model: LatencyModel
    timings: int

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def search(
    timed: Timed, options: Mapping[str, Sequence[int]], loss: Loss, share: float, *, sizes: float | None = None,
    samples: int = 100, rounds: int = 4, seed: int = 0,
) -> Found:  # fmt: skip
    """The plan of least predicted loss whose engine runs in `share` of the dense engine's latency, measured.

    Args:
        options: group -> widths it may have.
        loss: group -> width -> predicted loss.
        share: of the dense engine's latency.
        sizes: most bytes of the engine, if that is limited too.
        samples: plans timed to learn the device.
        rounds: most turns of the loop.

    Raises:
        BudgetError: out of reach, or not met within `rounds`; says the least that can be reached.
        MeasurementError: the device is too unsteady to learn from.
    """
    plans = spread_plans(options, samples, seed)
    known = steady(timed.times(plans))
    model = learn(timed.network, known, [])
    others = [] if sizes is None else [Limit("size", size_model(timed.network, known), sizes)]
    progress.note(f"  latency model: {_quality(model)}")
    done: list[Round] = []
    correction = 1.0
    while len(done) < rounds:
        limit = Limit("latency", model.cost, share * AIM / correction)
        choice = solve(options, loss, [_reachable(limit, timed, options, share), *others], seed=seed)
        timing = timed.times([choice.widths])[0]
        done.append(_round(choice, timing))
        progress.note(
            f"  round {len(done)}: predicted {done[-1].predicted:.3f}, measured {timing.ratio:.3f} (budget {share:.3f})"
        )
        if _met(timing.ratio / share, slack=choice.costs["latency"] / limit.most):
            return Found(choice.widths, done, model, len(known) + len(done))
        model = learn(timed.network, known, done)
        correction = timing.ratio / model.cost.at(choice.widths)
    raise BudgetError(
        f"no engine within {TOLERANCE:.0%} of the latency budget after {rounds} rounds", got=[round(r.measured, 3) for r in done],
        fix=f"asked {share:.3f} of the dense engine; more --samples make the model better, or loosen the budget",
    )  # fmt: skip


def _met(of_budget: float, slack: float) -> bool:
    """Within the tolerance; or below it, where another budget is what holds the plan back."""
    return of_budget <= 1 + TOLERANCE and (of_budget >= 1 - TOLERANCE or slack < 1 - TOLERANCE)


def learn(network: Network, known: Sequence[Timing], done: Sequence[Round], weight: int = 3) -> LatencyModel:
    """A model of everything timed; plans near the budget count `weight` times."""
    plans = [timing.about["widths"] for timing in known] + [r.widths for r in done for _ in range(weight)]
    ratios = [timing.ratio for timing in known] + [r.measured for r in done for _ in range(weight)]
    return latency.fit(network, plans, ratios)


def size_model(network: Network, known: Sequence[Timing]) -> Cost:
    """Bytes of the engine: a constant and so many bytes a weight, from the engines timed."""
    import numpy as np

    count = weights(network)
    column = np.array([[1.0, count.at(timing.about["widths"])] for timing in known])
    (constant, each), *_ = np.linalg.lstsq(column, np.array([float(timing.size_bytes) for timing in known]), rcond=None)
    return scaled(count, float(each), float(constant))


def _reachable(limit: Limit, timed: Timed, options: Mapping[str, Sequence[int]], share: float) -> Limit:
    """The limit itself, unless even the smallest network, as measured, is over the budget."""
    least = {group: min(widths) for group, widths in options.items()}
    if limit.cost.at(least) > limit.most:
        measured = timed.times([least])[0].ratio
        if measured > share:
            raise BudgetError(
                "the latency budget cannot be reached by narrower layers", got=f"{share:.3f} of the dense engine",
                fix=f"the narrowest network measured {measured:.3f}; a smaller picture (--imgsz) goes further",
            )  # fmt: skip
    return limit


def _round(choice: Choice, timing: Timing) -> Round:
    return Round(choice.costs["latency"], timing.ratio, timing.error, choice.loss, choice.gap, choice.widths, choice.seconds)


def _quality(model: LatencyModel) -> str:
    held = model.held_out
    return (
        f"{held.mape:.1%} off on plans it has not seen (bias {held.bias:+.1%}, Kendall τ {held.kendall_tau:.3f}, "
        f"{held.plans} plans, widths in blocks of {model.cost.block})"
    )
