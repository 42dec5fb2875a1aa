"""Which start is cut: of several models and picture sizes, the one that does best in a short training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.config import SelectSection, TrainSection
from toolchain.errors import BudgetError
from toolchain.pruning.plan import PruningPlan, make_plan
from toolchain.pruning.prune import PruneRequest, prune
from toolchain.selection.goals import AIM, Goal
from toolchain.selection.learnt import Learnt, size_limit
from toolchain.selection.propose import Propose, by_ratio, exact
from toolchain.selection.solver import Choice, Limit
from toolchain.selection.starts import Start
from toolchain.selection.strategies import BY_BUDGET, Ask
from toolchain.selection.trial import held_back
from toolchain.stage import Stages
from toolchain.verbs.networks import finetune


def best_start(
    starts: Sequence[Start], learnt: Sequence[Learnt], share: float | None, most: float | None, out: Path,
    settings: SelectSection, *, data: Path, align: int, seed: int,
) -> tuple[int, list[dict[str, Any]]]:  # fmt: skip
    """The start to cut, and what is known of every start; where there are several, the best of a short training decides.

    Raises:
        BudgetError: by the models of latency, none of several reaches the budget.
    """
    if len(starts) == 1 or share is None:  # whether one alone reaches it, the search finds by measuring
        return 0, [{"model": str(starts[0].model), "imgsz": starts[0].imgsz, "uncut": 1.0, "share": None, "loss": None,
                    "why_not": None, "chosen": True}]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for start, one in zip(starts, learnt, strict=True):
        row: dict[str, Any] = {"model": str(start.model), "imgsz": start.imgsz, "uncut": start.share}
        try:
            choice = _first(start, one, share, most, proposer(start, settings, align, seed))
            row |= {"share": choice.costs["latency"] * start.share, "loss": choice.loss, "why_not": None}
            row |= {"trial_map": _trial(start, choice, out, settings, data=data, align=align, seed=seed)}
        except BudgetError as error:
            row |= {"share": None, "loss": None, "why_not": str(error)}
        rows.append(row)
        note = row["why_not"] or f"mAP50-95 {row['trial_map']:.3f} after a trial of {settings.trial_epochs} epochs"
        progress.note(f"  {start.model.name} at {start.imgsz} px: {note}")
    reachable = [i for i, row in enumerate(rows) if row["why_not"] is None]
    if not reachable:
        raise BudgetError("no model and picture size reaches the budget", got=[row["why_not"] for row in rows])
    best = max(reachable, key=lambda i: float(rows[i].get("trial_map", 0.0)))
    for i, row in enumerate(rows):
        row["chosen"] = i == best
    return best, rows


def _trial(start: Start, choice: Choice, out: Path, settings: SelectSection, *, data: Path, align: int, seed: int) -> float:
    """mAP50-95 of a start's plan after a few epochs, on training pictures that were held back."""
    from toolchain.yolo.finetune import list_data

    def work(folder: Path) -> dict[str, Any]:
        model = start.model
        if choice.widths != start.whole:
            plan = plan_of(start, choice.widths, settings, 0.0, align)
            plan.save(folder / "trial-plan.json")
            prune(start.model, folder, PruneRequest(imgsz=start.imgsz), data=data, plan_file=folder / "trial-plan.json")
            model = folder / "pruned.pt"
        (folder / "held").mkdir(exist_ok=True)
        held = list_data(held_back(start.at.dataset, seed), folder / "held")
        epochs = settings.trial_epochs
        train = TrainSection(epochs=epochs, val_every=epochs, close_mosaic=epochs // 3)
        title = f"Trial of {start.model.stem} at {start.imgsz} px"
        return finetune(model, folder, data=held, imgsz=start.imgsz, train=train, seed=seed, title=title)

    stage = Stages(out / "stages").run(
        f"trial-{start.model.stem}-{start.imgsz}", work, inputs={"model": start.model, "data": start.at.dataset.sha256},
        params={"widths": choice.widths, "epochs": settings.trial_epochs, "seed": seed, "imgsz": start.imgsz},
    )  # fmt: skip
    return float(stage.result["best_map50_95"])


def _first(start: Start, learnt: Learnt, share: float, most: float | None, propose: Propose) -> Choice:
    """A start's plan by the first model of its device; the uncut network where that is within the budgets."""
    if within_uncut(start, share, most, ()):
        return Choice(start.whole, 0.0, 0.0, {"latency": 1.0}, 0.0)
    limit = Limit("latency", learnt.cost, min(share / start.share, 1.0) * AIM)
    return propose([limit, *size_limit(learnt, most)])


def within_uncut(start: Start, share: float | None, most: float | None, others: Sequence[Goal]) -> bool:
    """Whether nothing needs to be cut."""
    fast = share is None or start.share <= share
    small = most is None or start.timed.reference.stat().st_size <= most
    return fast and small and all(goal.share is None or goal.share >= 1 for goal in others)


def proposer(start: Start, settings: SelectSection, align: int, seed: int) -> Propose:
    """How the strategy asked for proposes widths."""
    if settings.strategy in BY_BUDGET:
        return exact(start.options, start.loss, seed, removals=start.network.removals)
    ask = Ask(align=align, floor=settings.floor)
    return by_ratio(settings.strategy, start.network, start.scores, ask, start.loss)


def plan_of(start: Start, widths: dict[str, int], settings: SelectSection, ratio: float, align: int) -> PruningPlan:
    """The channels that stay, where every group has its width."""
    return make_plan(
        start.network, widths, start.scores, model_sha256=start.at.loaded.sha256, imgsz=start.imgsz, criterion=settings.criterion,
        strategy=settings.strategy, asked_ratio=ratio, align=align, uncut_ok=True,
    )  # fmt: skip
