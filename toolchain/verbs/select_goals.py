"""Budgets as what a search must stay within: what is measured on the device, and the bytes of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.config import SelectSection
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.errors import UsageError
from toolchain.selection import spent
from toolchain.selection.budget import Budget
from toolchain.selection.energy import EnergyGoal, Meter, check_sensor
from toolchain.selection.goals import LatencyGoal
from toolchain.selection.sampling import spread_plans
from toolchain.selection.starts import Start


def budget_of(kind: str, budgets: Sequence[Budget]) -> Budget | None:
    """The budget of one kind, if there is one."""
    return next((budget for budget in budgets if budget.kind == kind), None)


def check_budgets(budgets: Sequence[Budget], starts: int, on: On, settings: SelectSection) -> None:
    """Before anything is done.

    Raises:
        UsageError: several starts that could not be compared; energy where no power sensor can be read.
    """
    energy = budget_of("energy", budgets)
    if starts > 1 and (budget_of("latency", budgets) is None or energy is not None):
        raise UsageError(
            "several models or picture sizes are compared at a latency budget", got=", ".join(map(str, budgets)),
            fix="give one, with or without a size budget; or one model and one picture size",
        )  # fmt: skip
    if energy is not None and settings.meter is None:
        check_sensor(on, load_target(on.target) if on.target else None)


def most_bytes(budgets: Sequence[Budget], dense: Path) -> float | None:
    """The most bytes the engine may have."""
    size = budget_of("size", budgets)
    return None if size is None else size.value * (dense.stat().st_size if size.relative else 1)


def energy_goal(
    start: Start, latency: LatencyGoal, budgets: Sequence[Budget], out: Path, on: On, settings: SelectSection, seed: int
) -> list[EnergyGoal]:
    """The energy budget as a goal, its law learnt from a spread of plans measured on the device; none where none was asked for.

    Raises:
        UsageError: no power sensor that can be read there.
        MeasurementError: too few windows were valid.
    """
    budget = budget_of("energy", budgets)
    if budget is None:
        return []
    request = EnergyRequest("search", settings.meter, settings.meter_scope, settings.energy_repeats)
    meter = Meter(start.timed, out / "energy", request, load_target(on.target) if on.target else None)
    plans = spread_plans(start.options, settings.energy_samples, seed + 2, removals=start.network.removals)
    with spent.stage("energy of plans"):
        goal = EnergyGoal(meter, latency, plans)
    goal.share = budget.share_of(goal.dense_mj)
    return [goal]


def energy_summary(goals: Sequence[EnergyGoal]) -> dict[str, Any]:
    """What select.json says of an energy budget."""
    if not goals:
        return {}
    (goal,) = goals
    plans = [{"widths": dict(widths), "measured": ratio} for widths, ratio in goal.known]
    return {
        "energy": {"share": goal.share, "dense_mj": goal.dense_mj, "sensor": goal.sensor, "scope": goal.scope, "plans": plans}
    }
