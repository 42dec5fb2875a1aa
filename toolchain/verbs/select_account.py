"""What `select.json` says beside the search: why the plan is as it is, and in which circumstances its numbers hold."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.config import SelectSection
from toolchain.device.settings import On
from toolchain.selection.budget import Budget
from toolchain.selection.explain import explain
from toolchain.selection.learnt import Learnt, size_limit
from toolchain.selection.search import Found
from toolchain.selection.solver import Limit
from toolchain.selection.staircase import near
from toolchain.selection.starts import Start
from toolchain.selection.timed import dense_ms
from toolchain.stage import read_json, tool_versions

SHOWN = ("strategy", "precision", "samples", "rounds", "floor", "criterion", "images", "value", "depth", "check", "stairs",
         "energy_samples", "energy_repeats", "meter", "meter_scope")  # fmt: skip


def reasons(
    start: Start, found: Found, learnt: Learnt, most: float | None, settings: SelectSection, before: Path, seed: int
) -> dict[str, Any]:
    """Layers with their reasons, the staircase, the front of other budgets.

    Args:
        most: bytes of the engine, if those are limited.
        before: an earlier `select.json`, if there is one: what it has on the same question is kept.
    """
    cost = learnt.table or found.model.cost
    limits = [Limit("latency", cost, cost.at(found.widths)), *size_limit(learnt, most)]
    around = near(start.options, cost, found.widths, start.network.removals, settings.stairs)
    chosen, *others = start.timed.times([found.widths, *around])
    return explain(
        start.network, start.options, start.loss, limits, found.widths, dense_ms=dense_ms([chosen]), seed=seed,
        timings=[*learnt.known, chosen, *others], known=read_json(before) if before.exists() else None,
    )  # fmt: skip


def circumstances(
    models: Sequence[Path], sizes: Sequence[int], budgets: Sequence[Budget], settings: SelectSection, *, data: Path, on: On,
    align: int, seed: int, alone: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """When, with which tools and settings, and the command that does it again, unless this is one of several cuts."""
    setting = {"host": on.host, "target": on.target, "runtime": on.runtime, "provider": on.provider, "threads": on.threads}
    setting |= {"data": str(data), "align": align, "seed": seed, **{name: getattr(settings, name) for name in SHOWN}}
    flags = {"--data": data, "--imgsz": ",".join(map(str, sizes)), "--host": on.host, "--threads": on.threads, "--align": align}
    flags |= {"--seed": seed, "--strategy": settings.strategy, "--precision": settings.precision}
    flags |= {} if settings.samples is None else {"--samples": settings.samples}
    flags |= {"--rounds": settings.rounds, "--criterion": settings.criterion, "--value": settings.value}
    flags |= {"--runtime": on.runtime, "--provider": on.provider}
    flags |= {} if on.target is None else {"--target": on.target}
    flags |= {} if on.python is None else {"--python": on.python}
    flags |= {"--trial-epochs": settings.trial_epochs} if len(models) * len(sizes) > 1 else {}
    flags |= {"--stairs": settings.stairs} if settings.stairs else {}
    flags |= {} if settings.meter is None else {"--meter": settings.meter, "--meter-scope": settings.meter_scope}
    if any(budget.kind == "energy" for budget in budgets):
        flags |= {"--energy-samples": settings.energy_samples, "--energy-repeats": settings.energy_repeats}
    words = ["toolchain", "select", *models, *(part for budget in budgets for part in ("--budget", budget.flag))]
    words += [part for flag in flags.items() for part in flag]
    return {
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "versions": tool_versions(),
        "setting": setting, "command": shlex.join(map(str, words)) if alone else None,
    }  # fmt: skip
