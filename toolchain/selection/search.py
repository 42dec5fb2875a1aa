"""Solve, build, measure, learn, solve again: until the engine measured on the device meets every budget.

spread plans ─ timed ─ latency model ─┐
value of every width ─────────────────┴ solver ─ plan ─ measured ─ within 2 %? ─ no: learn from it and solve again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolchain import progress
from toolchain.errors import BudgetError
from toolchain.selection import spent
from toolchain.selection.goals import TOLERANCE, Goal, LatencyGoal
from toolchain.selection.latency import LatencyModel
from toolchain.selection.learnt import Learnt
from toolchain.selection.propose import Propose
from toolchain.selection.solver import Choice, Limit


@dataclass(frozen=True)
class Round:
    """One turn of the loop: what was predicted and what was measured, as shares of the dense engine's latency.

    Attributes:
        error: relative standard error of `measured`.
        others: the same three numbers of other goals, such as energy.
    """

    predicted: float
    measured: float
    error: float
    loss: float
    gap: float | None
    widths: dict[str, int]
    solver_s: float
    others: dict[str, dict[str, float]]


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
    latency: LatencyGoal, propose: Propose, *, others: Sequence[Goal] = (), sizes: Sequence[Limit] = (), rounds: int = 4
) -> Found:
    """The plan that `propose` makes within all budgets, as measured.

    Args:
        propose: limits -> a plan within them.
        others: more goals that are measured.
        sizes: limits that need no measuring.
        rounds: most turns of the loop.

    Raises:
        BudgetError: out of reach, or exceeded in all `rounds`; says the least that can be reached.
    """
    goals: list[Goal] = [latency, *others]
    limited = [goal for goal in goals if goal.share is not None]
    done: list[Round] = []
    while len(done) < rounds:
        limits: list[Limit] = []
        closer = None if others else _around(latency, propose, sizes)
        if closer is None:
            limits = [limit for goal in goals for limit in goal.limits()] + list(sizes)  # may measure
            with spent.stage("solver"):
                choice = propose(limits)
        else:
            choice = closer
        predicted = {goal.name: goal.cost.at(choice.widths) for goal in goals}
        measured = {goal.name: goal.measure(choice.widths) for goal in goals}
        told = {
            name: {"predicted": predicted[name], "measured": measured[name][0], "error": measured[name][1]} for name in measured
        }
        first = told.pop("latency")
        done.append(Round(**first, loss=choice.loss, gap=choice.gap, widths=choice.widths, solver_s=choice.seconds, others=told))
        _tell(done[-1], len(done), goals)
        ratios = {goal.name: measured[goal.name][0] for goal in goals}
        if latency.close(ratios["latency"]) if closer else all(goal.met(ratios[goal.name], choice, limits) for goal in goals):
            return Found(choice.widths, done, latency.model, len(latency.learnt.known) + len(done))
        for goal in goals:
            goal.learn(choice.widths, ratios[goal.name])
    return _largest_within(done, latency, limited, rounds)


def _around(latency: LatencyGoal, propose: Propose, sizes: Sequence[Limit]) -> Choice | None:
    """A plan next to those measured near the budget; None where there is none, or no other than they are."""
    if (found := latency.around()) is None:
        return None
    limit, among = found
    with spent.stage("solver"):
        try:
            choice = propose([limit, *sizes], among)
        except BudgetError:  # such as a size: it may need narrower layers beside wider ones
            return None
    return None if any(choice.widths == widths for widths, _ in latency.done) else choice


def _largest_within(done: list[Round], latency: LatencyGoal, limited: Sequence[Goal], rounds: int) -> Found:
    """After the last round: the engine that uses most of the budgets and exceeds none.

    Raises:
        BudgetError: each of them exceeded one.
    """

    def ratio(one: Round, goal: Goal) -> float:
        return one.measured if goal is latency else one.others[goal.name]["measured"]

    inside = [one for one in done if all(goal.within(ratio(one, goal)) for goal in limited)]
    if not inside:
        raise BudgetError(
            f"no engine within the {' and '.join(goal.name for goal in limited)} budget after {rounds} rounds",
            got=[{goal.name: round(ratio(one, goal), 3) for goal in limited} for one in done],
            fix=f"asked {', '.join(f'{goal.share:.3f}' for goal in limited)} of the dense engine, to {TOLERANCE:.0%}; "
            "more --samples make the model better, or loosen the budget",
        )  # fmt: skip
    best = max(inside, key=lambda one: max(ratio(one, goal) / (goal.share or 1.0) for goal in limited))
    said = ", ".join(f"{goal.name} {ratio(best, goal):.3f}" for goal in limited)
    progress.note(f"  not within the tolerance after {rounds} rounds: the largest below the budget is {said}")
    rounds_so = [*(one for one in done if one is not best), best]
    return Found(best.widths, rounds_so, latency.model, len(latency.learnt.known) + len(done))


def _tell(one: Round, number: int, goals: Sequence[Goal]) -> None:
    told = {"latency": {"predicted": one.predicted, "measured": one.measured}, **one.others}
    words = [
        f"{goal.name} predicted {told[goal.name]['predicted']:.3f}, measured {told[goal.name]['measured']:.3f}"
        + ("" if goal.share is None else f" (budget {goal.share:.3f})")
        for goal in goals
    ]
    progress.note(f"  round {number}: {'; '.join(words)}")


def uncut(learnt: Learnt, widths: dict[str, int]) -> Found:
    """The network as it is, where that is within the budget."""
    return Found(widths, [Round(1.0, 1.0, 0.0, 0.0, 0.0, widths, 0.0, {})], learnt.model, len(learnt.known))
