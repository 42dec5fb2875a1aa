"""The verb that chooses every group's width by what the device really does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolchain.config import SelectSection
from toolchain.device.probe import probe
from toolchain.device.settings import On
from toolchain.errors import UsageError
from toolchain.pruning.criteria import Subject, score
from toolchain.pruning.plan import make_plan
from toolchain.pruning.prune import PruneRequest, analyse, gather, prune
from toolchain.selection import value
from toolchain.selection.budget import Budget
from toolchain.selection.search import Found, search
from toolchain.selection.store import folder_of
from toolchain.selection.strategies import Ask, allowed_widths
from toolchain.selection.timed import Timed, dense_ms
from toolchain.stage import Stages, write_json
from toolchain.verbs.accuracy import cpu_features
from toolchain.verbs.networks import export

STRATEGY = "latency"


def select(
    model: Path, out: Path, budgets: Sequence[Budget], *, data: Path, imgsz: int, on: On, align: int,
    section: SelectSection | None = None, seed: int = 0, part: float = 1.0, share_before: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Widths within the budget, measured on the device; writes `plan.json`, `pruned.pt` and `select.json`.

    Args:
        out: keeps the dense engine and every step; the same call goes on after a stop.
        budgets: shares are of the dense engine in the precision of `section`.
        align: widths are multiples of it.
        part, share_before: for one of several cuts: `model` runs in `share_before` of the first dense engine's latency, and is to
            go `part` of the way that is left, on a logarithmic scale.

    Raises:
        BudgetError: out of reach; says the least that can be reached.
        UsageError: a budget that cannot be measured there.
        DeviceError and its kinds: what was timed is kept.
    """
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset

    settings = section or SelectSection()
    latency = _latency(budgets)
    loaded = load_model(model)
    dataset = load_dataset(data, class_names=loaded.names)
    prunable, network = analyse(loaded, imgsz)
    dense = dense_engine(model, out, data=data, imgsz=imgsz, precision=settings.precision, on=on)
    machine = probe(on.host, python=on.python)
    timed = Timed(network, dense, folder_of(network, imgsz, settings.precision, machine, on), on)
    ask = Ask(align=align, floor=settings.floor)
    options = {g.name: allowed_widths(g, ask) for g in network.free}
    scores = score(network, Subject(prunable, gather(prunable, dataset, imgsz, settings.images, seed), seed), settings.criterion)
    loss = value.fisher(network, scores, options)
    whole = timed.times([{g: max(w) for g, w in options.items()}])
    share = (latency.value / (share_before if latency.relative else dense_ms(whole))) ** part
    found = search(
        timed, options, loss, share, sizes=_sizes(budgets, dense), samples=settings.samples, rounds=settings.rounds, seed=seed
    )
    plan = make_plan(
        network, found.widths, scores, model_sha256=loaded.sha256, imgsz=imgsz, criterion=settings.criterion, strategy=STRATEGY,
        asked_ratio=1 - share, align=align,
    )  # fmt: skip
    plan.save(out / "plan.json")
    cut = prune(model, out, PruneRequest(imgsz=imgsz), data=data, plan_file=out / "plan.json")
    result = {**cut, **_summary(found, share, budgets, timed, machine)}
    write_json(out / "select.json", result)
    return result


def dense_engine(model: Path, out: Path, *, data: Path, imgsz: int, precision: str, on: On) -> Path:
    """The unpruned engine in the precision asked for: the reference, and what candidates are cut out of."""
    from toolchain.quantization.quantize import quantize
    from toolchain.yolo.dataset import load_dataset

    stages = Stages(out / "stages")
    float_ = stages.run(
        "dense", lambda folder: export(model, folder, data=data, imgsz=imgsz), inputs={"model": model}, params={"imgsz": imgsz},
        keep_outputs=("model.onnx",),
    )  # fmt: skip
    if precision == "fp32":
        return float_ / "model.onnx"
    images, features = load_dataset(data).images("train"), cpu_features(on)

    def work(folder: Path) -> dict[str, Any]:
        return quantize(float_ / "model.onnx", images, folder, imgsz=imgsz, recipe="percentile", **features)

    stage = stages.run(
        "dense-int8", work, inputs={"model": float_ / "model.onnx"}, params={"imgsz": imgsz, **features},
        keep_outputs=("model.int8.onnx",),
    )  # fmt: skip
    return stage / "model.int8.onnx"


def _latency(budgets: Sequence[Budget]) -> Budget:
    kinds = {budget.kind: budget for budget in budgets}
    if "energy" in kinds:
        raise UsageError("an energy budget cannot be selected for yet", got=str(kinds["energy"]), fix="give a latency budget")
    if "latency" not in kinds:
        raise UsageError("a latency budget is needed", got=", ".join(map(str, budgets)), fix="--budget latency=0.5x")
    return kinds["latency"]


def _sizes(budgets: Sequence[Budget], dense: Path) -> float | None:
    """The most bytes the engine may have."""
    size = next((budget for budget in budgets if budget.kind == "size"), None)
    return None if size is None else size.value * (dense.stat().st_size if size.relative else 1)


def _summary(found: Found, share: float, budgets: Sequence[Budget], timed: Timed, machine: dict[str, Any]) -> dict[str, Any]:
    last = found.rounds[-1]
    return {
        "budgets": [str(budget) for budget in budgets], "share": share, "measured": last.measured, "error": last.error,
        "rounds": [asdict(one) for one in found.rounds], "timings": found.timings,
        "latency_model": {"held_out": asdict(found.model.held_out), "block": found.model.cost.block, "ridge": found.model.ridge},
        "store": str(timed.folder), "device": machine,
    }  # fmt: skip
