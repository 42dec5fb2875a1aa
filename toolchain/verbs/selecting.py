"""The verb that chooses every group's width by what the device really does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from toolchain.config import ExportSection, SelectSection
from toolchain.device.engine_precision import in_precision
from toolchain.device.runtimes import check_there
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate
from toolchain.executor.task import Executor
from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.groups import Widths
from toolchain.pruning.kept_scores import kept_scores
from toolchain.pruning.prune import PruneRequest, prune
from toolchain.pruning.recovery import check_kind
from toolchain.pruning.sensitivity import Loaded, load, sensitivity
from toolchain.report import selection_page
from toolchain.selection import joint, spent, value
from toolchain.selection.budget import Budget
from toolchain.selection.cost import Cost
from toolchain.selection.elimination import cheapest
from toolchain.selection.goals import LatencyGoal
from toolchain.selection.learnt import size_limit, study
from toolchain.selection.missing import with_missing
from toolchain.selection.sampling import spread_plans
from toolchain.selection.search import Found, search, uncut
from toolchain.selection.shapes import removable_options
from toolchain.selection.starts import Start
from toolchain.selection.store import folder_of
from toolchain.selection.strategies import BY_BUDGET, Ask, allowed_widths, check_strategy
from toolchain.selection.timed import Timed, dense_ms
from toolchain.selection.value import Loss
from toolchain.stage import Stages, write_json
from toolchain.verbs.accuracy import cpu_features
from toolchain.verbs.networks import export
from toolchain.verbs.select_account import circumstances, reasons
from toolchain.verbs.select_goals import budget_of, check_budgets, energy_goal, energy_summary, most_bytes
from toolchain.verbs.select_starts import best_start, plan_of, proposer, within_uncut

LOSS_IMAGES = 64  # training pictures on which a network's detection loss is measured
RATIOS = (0.25, 0.5, 0.75, 0.9)  # pruned shares whose loss is measured for every group


def select(
    models: Sequence[Path], out: Path, budgets: Sequence[Budget], *, data: Path, sizes: Sequence[int], on: On, align: int,
    section: SelectSection | None = None, seed: int = 0, part: float = 1.0, share_before: float = 1.0,
    compensate: str = "none", helpers: Sequence[str] = (), executor: Executor | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Widths within the budget, measured on the device; writes `plan.json`, `pruned.pt`, `select.json` and its page.

    Args:
        models: detectors to start from; only the one that promises the least loss within the budget is cut.
        out: keeps the dense engines and every step; the same call goes on after a stop.
        budgets: shares are of the dense engine of the first model at the first size, in the precision of `section`.
        sizes: sides of the picture that may be chosen, pixels.
        align: widths are multiples of it.
        part, share_before: for one of several cuts: `models` run in `share_before` of the first dense engine's latency, and are
            to go `part` of the way that is left, on a logarithmic scale.
        compensate: how accuracy is won back right after the cut; see `toolchain.pruning.recovery.KINDS`.
        helpers: more hosts of the same model as that of `on`, which share the timing of plans.
        executor: measures losses; None: this process.

    Raises:
        BudgetError: out of reach; says the least that can be reached.
        UsageError: a budget that cannot be measured there, or a precision the runtime has not; several starts
            without a latency to compare them at.
        DeviceError and its kinds: what was timed is kept.
    """
    with spent.account(out) as ledger:
        result = _select(
            models, out, budgets, data=data, sizes=sizes, on=on, align=align, settings=section or SelectSection(), seed=seed,
            part=part, share_before=share_before, compensate=compensate, helpers=helpers, executor=executor,
        )  # fmt: skip
        result["spent"] = ledger.to_json()
    write_json(out / "select.json", result)
    selection_page.write(result, out / selection_page.FILE)
    return result


def _select(
    models: Sequence[Path], out: Path, budgets: Sequence[Budget], *, data: Path, sizes: Sequence[int], on: On, align: int,
    settings: SelectSection, seed: int, part: float, share_before: float, compensate: str, helpers: Sequence[str],
    executor: Executor | None,
) -> dict[str, Any]:  # fmt: skip
    """All of `select.json` but what it cost."""
    on = in_precision(on, settings.precision)
    check_strategy(settings.strategy)
    check_kind(compensate, data)
    check_budgets(budgets, len(models) * len(sizes), on, settings)
    machine = check_there(on)
    starts: list[Start] = []
    for model in models:
        for imgsz in sizes:
            start = _start(
                model, imgsz, out, settings, data=data, align=align, on=on, machine=machine, seed=seed, helpers=helpers,
                executor=executor,
            )  # fmt: skip
            starts.append(start if not starts else replace(start, share=_share(start, starts[0])))
    first, latency = starts[0], budget_of("latency", budgets)
    share = None if latency is None else _latency_share(latency, first, part, share_before)
    most = most_bytes(budgets, first.timed.reference)
    learnt = [study(s.timed, s.options, settings.samples, seed, table=settings.strategy == "table") for s in starts]
    with spent.stage("choice of the start"):
        best, candidates = best_start(starts, learnt, share, most, out, settings, data=data, align=align, seed=seed)
    start = starts[best]
    goal = LatencyGoal(learnt[best], None if share is None else share / start.share, partial(_least, start))
    others = energy_goal(start, goal, budgets, out, on, settings, seed)
    if within_uncut(start, share, most, others):
        found = uncut(learnt[best], start.whole)
    else:
        propose = proposer(start, settings, align, seed)
        with spent.stage("rounds"):
            found = search(goal, propose, others=others, sizes=size_limit(learnt[best], most), rounds=settings.rounds)
    plan_of(start, found.widths, settings, 1 - found.rounds[-1].measured, align).save(out / "plan.json")
    with spent.stage("cut"):
        cut = prune(
            start.model, out, PruneRequest(imgsz=start.imgsz, seed=seed), data=data, plan_file=out / "plan.json",
            compensate=compensate,
        )  # fmt: skip
    with spent.stage("check of the sum"):
        checked = _agreement(start, settings, out, seed, executor)
    with spent.stage("reasons and other budgets"):
        why = reasons(start, found, learnt[best], most, settings, out / "select.json", seed)
    return {
        **cut, **_summary(found, share, start, budgets, machine), **energy_summary(others),
        "candidates": candidates, "strategy": settings.strategy,
        "value": {"kind": settings.value, **checked},
        **why,
        **circumstances(
            models, sizes, budgets, settings, data=data, on=on, align=align, seed=seed, alone=part == share_before == 1
        ),
    }  # fmt: skip


def _start(
    model: Path, imgsz: int, out: Path, settings: SelectSection, *, data: Path, align: int, on: On, machine: dict[str, Any],
    seed: int, helpers: Sequence[str], executor: Executor | None,
) -> Start:  # fmt: skip
    """Everything about one detector at one size but how fast it is beside the others."""
    with spent.stage("dense engines"):
        dense = dense_engine(model, out, data=data, imgsz=imgsz, precision=settings.precision, on=on)
    with spent.stage("values of widths"):
        at, options, scores, loss = _values(model, imgsz, out, settings, data=data, align=align, seed=seed, executor=executor)
    timed = Timed(at.network, dense, folder_of(at.network, imgsz, settings.precision, machine, on), on, helpers)
    return Start(model, imgsz, at, timed, options, scores, loss)


def _values(
    model: Path, imgsz: int, out: Path, settings: SelectSection, *, data: Path, align: int, seed: int, executor: Executor | None
) -> tuple[Loaded, dict[str, list[int]], GroupScores, Loss]:
    """The detector's groups with the widths they may have, their channels' scores, and what each width loses."""
    at = load(model, data, imgsz, LOSS_IMAGES, seed)
    network = at.network
    options = {g.name: allowed_widths(g, Ask(align=align, floor=settings.floor)) for g in network.free}
    depth = settings.depth and settings.strategy in BY_BUDGET
    if depth:
        options = removable_options(network, options)
    scores = kept_scores(at, Stages(out / "stages"), imgsz=imgsz, criterion=settings.criterion, images=settings.images, seed=seed)
    loss = (value.remaining if settings.value == "remaining" else value.fisher)(network, scores, options)
    if settings.value == "measured":
        folder = out / f"sensitivity-{model.stem}-{imgsz}"
        folder.mkdir(exist_ok=True)
        rows = sensitivity(
            model, folder, data=data, imgsz=imgsz, criterion=settings.criterion, ratios=RATIOS, images=LOSS_IMAGES, align=align,
            seed=seed, depth=depth, executor=executor,
        )["rows"]  # fmt: skip
        rises = value.rises(rows)
        missing = {group: widths.pop(0) for group, widths in rises.items() if 0 in widths}
        loss = value.measured(rises, loss, options)
        loss = with_missing(loss, network.removals, missing) if depth else loss
    return at, options, scores, loss


def _share(start: Start, first: Start) -> float:
    """Latency of a start's uncut engine as a share of the first one's, measured in turns."""
    engine = Candidate(f"uncut {start.imgsz} {start.timed.folder.name}", lambda: start.timed.reference)
    return first.timed.engines([engine])[0].ratio


def _least(start: Start, law: Cost) -> Widths:
    return cheapest(start.options, [(law, 1.0)], start.network.removals)


def _latency_share(budget: Budget, first: Start, part: float, share_before: float) -> float:
    """Most of the first dense engine's latency that this cut may leave."""
    whole = share_before if budget.relative else dense_ms(first.timed.times([first.whole]))
    return float((budget.value / whole) ** part)


def _agreement(start: Start, settings: SelectSection, out: Path, seed: int, executor: Executor | None) -> dict[str, Any]:
    """How well the summed losses order random plans."""
    if not settings.check:
        return {}
    plans = spread_plans(start.options, settings.check, seed + 1, removals=start.network.removals)
    return joint.agreement(start.loss, plans, joint.joint(start, plans, out, executor))


def dense_engine(model: Path, out: Path, *, data: Path, imgsz: int, precision: str, on: On) -> Path:
    """The unpruned engine in the precision asked for: the reference, and what candidates are cut out of."""
    from toolchain.quantization.quantize import quantize
    from toolchain.yolo.dataset import load_dataset

    stages, name, section = Stages(out / "stages"), f"{model.stem}-{imgsz}", ExportSection().for_runtime(on.runtime)
    float_ = stages.run(
        name, lambda folder: export(model, folder, data=data, imgsz=imgsz, export=section), inputs={"model": model},
        params={"imgsz": imgsz, **section.model_dump()}, keep_outputs=("model.onnx",),
    )  # fmt: skip
    spent.count(not float_.reused, float_.reused)
    if precision != "int8":
        return float_ / "model.onnx"
    images, features = load_dataset(data).images("train"), cpu_features(on)

    def work(folder: Path) -> dict[str, Any]:
        return quantize(float_ / "model.onnx", images, folder, imgsz=imgsz, recipe="percentile", **features)

    stage = stages.run(
        f"{name}-int8", work, inputs={"model": float_ / "model.onnx"}, params={"imgsz": imgsz, **features},
        keep_outputs=("model.int8.onnx",),
    )  # fmt: skip
    spent.count(not stage.reused, stage.reused)
    return stage / "model.int8.onnx"


def _summary(
    found: Found, share: float | None, start: Start, budgets: Sequence[Budget], machine: dict[str, Any]
) -> dict[str, Any]:
    """What select.json says of the search; latencies of rounds are shares of the chosen start's own dense engine."""
    last = found.rounds[-1]
    return {
        "model": str(start.model), "imgsz": start.imgsz, "uncut": start.share,
        "budgets": [str(budget) for budget in budgets], "share": share or last.predicted * start.share,
        "limited": share is not None, "measured": last.measured * start.share,
        "error": last.error, "rounds": [asdict(one) for one in found.rounds], "timings": found.timings,
        "latency_model": {"held_out": asdict(found.model.held_out), "ridge": found.model.ridge,
                          "prior": found.model.prior, **found.model.cost.counting._asdict()},
        "store": str(start.timed.folder), "device": machine,
    }  # fmt: skip
