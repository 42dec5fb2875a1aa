"""Does the sum of single losses tell the loss of a whole plan? Random plans, really cut, on training pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress
from toolchain.errors import MeasurementError
from toolchain.executor.task import Executor
from toolchain.pruning.effect import measure
from toolchain.pruning.plan import bare_plan
from toolchain.pruning.sensitivity import effects
from toolchain.selection import spent
from toolchain.selection.starts import Start
from toolchain.selection.timed import name_of
from toolchain.selection.value import Loss, total
from toolchain.stage import append_line, read_lines

FILE = "joint.jsonl"


def joint(start: Start, plans: Sequence[Mapping[str, int]], out: Path, executor: Executor | None = None) -> list[float]:
    """Rise of the detection loss of every plan over the uncut network's, per training picture.

    Args:
        out: keeps one line a plan; those already there are not measured again.
        executor: does the measuring; None: this process.

    Raises:
        TaskError: some could not be measured; the lines of the others are written.
    """
    known = _read(out / FILE, start.key)
    new = {name_of(plan): plan for plan in plans if name_of(plan) not in known}
    missing = {name: bare_plan(start.network, plan, start.scores, start.imgsz) for name, plan in new.items()}
    spent.count(len(missing), len(plans) - len(missing))
    with progress.task("Measuring whole plans", len(plans), "plans") as bar:
        bar.advance(len(plans) - len(missing))
        for name, effect in effects(start.at, missing, out, executor):
            known[name] = effect.loss
            append_line(out / FILE, {"job": start.key, "plan": name, "loss": effect.loss})
            bar.advance()
    uncut = measure(start.at.prunable, start.at.subset, start.imgsz, out).loss
    return [known[name_of(plan)] - uncut for plan in plans]


def agreement(loss: Loss, plans: Sequence[Mapping[str, int]], rises: Sequence[float]) -> dict[str, Any]:
    """How well the sums predict the rises: rank correlation, and the points themselves.

    Raises:
        MeasurementError: fewer than three plans.
    """
    from scipy.stats import spearmanr

    if len(plans) < 3:
        raise MeasurementError("agreement needs at least three plans", got=len(plans))
    sums = [total(loss, plan) for plan in plans]
    points = [{"predicted": one, "measured": other} for one, other in zip(sums, rises, strict=True)]
    return {"joint": points, "spearman": float(spearmanr(np.array(sums), np.array(rises)).statistic)}


def _read(path: Path, job: str) -> dict[str, float]:
    return {line["plan"]: line["loss"] for line in read_lines(path) if line["job"] == job}
