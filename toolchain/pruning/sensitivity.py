"""Sensitivity: what narrowing one dependency group alone does to the loss, the mAP and the boxes, through the real cut.

Measured on training pictures, so that nothing is chosen on the pictures that judge the result. Every (group, width) is a task of
its own, which any process or machine may do, and one line of `sensitivity.jsonl`, written by this process as soon as it is known:
a run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.errors import DataError
from toolchain.executor.serial import Serial
from toolchain.executor.task import Executor, Task
from toolchain.pruning.apply import cut_network
from toolchain.pruning.criteria import GroupScores
from toolchain.pruning.depth import emptied
from toolchain.pruning.effect import Effect, measure
from toolchain.pruning.groups import Network
from toolchain.pruning.plan import PruningPlan, bare_plan
from toolchain.pruning.prune import analyse, score_channels
from toolchain.selection.strategies import Ask, nearest_width
from toolchain.stage import append_line, read_lines, write_json
from toolchain.yolo.checkpoint import LoadedModel, load_model
from toolchain.yolo.dataset import Dataset, load_dataset
from toolchain.yolo.loss import choose_images

FILE, SUMMARY = "sensitivity.jsonl", "sensitivity.json"


@dataclass(frozen=True)
class Row:
    """One group at one width, beside the uncut network. Drops > 0 are worse; `box_iou_drop` is None where nothing matched."""

    group: str
    channels: int
    kept: int
    kept_ratio: float
    loss_rise: float
    map_drop: float
    box_iou_drop: float | None


def sensitivity(
    model: Path, out: Path, *, data: Path, imgsz: int, criterion: str = "fisher", ratios: Sequence[float] = (0.25, 0.5, 0.75),
    images: int = 64, align: int = 8, seed: int = 0, depth: bool = False, executor: Executor | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure every free group at every pruned ratio; write one line each and `out/sensitivity.json`.

    Args:
        model: detection `.pt`.
        out: existing folder; lines already there are kept if they are of the same job.
        data: data YAML; only `train` is used.
        criterion: ranks the channels inside a group.
        ratios: pruned shares to try; widths are aligned, equal widths are measured once.
        images: training pictures.
        depth: also without each Bottleneck that may go and all it takes along: rows of its hidden group at width 0.
        executor: does the measuring; None: this process. The rows are the same, in the order in which they become known.

    Raises:
        TaskError: some could not be measured; the lines of the others are written.
    """
    at = load(model, data, imgsz, images, seed)
    network = at.network
    scores = score_channels(at.prunable, network, at.dataset, imgsz=imgsz, criterion=criterion, images=images, seed=seed)
    job = {
        "model": at.loaded.sha256, "data": at.dataset.sha256, "imgsz": imgsz, "criterion": criterion, "images": images,
        "align": align, "seed": seed,
    }  # fmt: skip
    done = {(row.group, row.kept): row for row in read_rows(out, job)}
    todo = list(_widths(network, ratios, align))
    todo += [(removal.hidden, 0) for removal in network.removals if depth]
    missing = {_key(*one): one for one in todo if one not in done}
    with progress.task("Measuring sensitivity", len(todo), "widths") as bar:
        bar.advance(len(todo) - len(missing))
        base = measure(at.prunable, at.subset, imgsz, out) if missing else None
        plans = {key: _plan(network, scores, imgsz, *one) for key, one in missing.items()}
        for key, effect in effects(at, plans, out, executor):
            assert base is not None
            name, kept = missing[key]
            row = _row(name, network.group(name).channels, kept, base, effect)
            append_line(out / FILE, {"job": job, **asdict(row)})
            done[(name, kept)] = row
            bar.advance(note=name)
    rows = [asdict(done[key]) for key in todo]
    result = {"job": job, "images": len(at.subset.images("train")), "rows": rows}
    write_json(out / SUMMARY, result)
    return result


def _widths(network: Network, ratios: Sequence[float], align: int) -> Iterator[tuple[str, int]]:
    for group in network.free:
        widths = {nearest_width(group, group.channels * (1 - ratio), Ask(align=align)) for ratio in ratios}
        for width in sorted(widths - {group.channels}, reverse=True):
            yield group.name, width


def _key(name: str, kept: int) -> str:
    return f"{name} at {kept} channels"


def _plan(network: Network, scores: GroupScores, imgsz: int, name: str, kept: int) -> PruningPlan:
    """The cut of one group alone."""
    widths = {g.name: g.channels for g in network.free} | {name: kept}
    widths |= {} if kept else dict.fromkeys(emptied(network.removals, name), 0)
    return bare_plan(network, widths, scores, imgsz)


def _row(name: str, channels: int, kept: int, base: Effect, effect: Effect) -> Row:
    iou = None if effect.box_iou is None or base.box_iou is None else base.box_iou - effect.box_iou
    return Row(name, channels, kept, kept / channels, effect.loss - base.loss, base.map50_95 - effect.map50_95, iou)


# --- plans as tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """Everything about a measurement but the cut."""

    model: Path
    data: Path
    loaded: LoadedModel
    dataset: Dataset
    subset: Dataset
    prunable: Any
    network: Network
    about: dict[str, Any]


_loaded: list[Loaded] = []  # of this process, at most one: the tasks of a job follow each other


def effects(
    at: Loaded, plans: Mapping[str, PruningPlan], out: Path, executor: Executor | None = None
) -> Iterator[tuple[str, Effect]]:
    """What each plan's cut does on the chosen training pictures, as they become known.

    Args:
        plans: by any name.
        out: for what can be made again.
        executor: None: this process.

    Raises:
        TaskError: after all others, if some failed.
    """
    files, places = {"model": at.model.absolute()}, {"data": at.data.absolute()}
    tasks = [
        Task(name, f"{__name__}:effect_of", {"plan": plan.model_dump(), "about": at.about}, files, places, work=out.absolute())
        for name, plan in plans.items()
    ]
    _loaded[:] = [at]  # tasks done in this process find it
    try:
        for task, effect in (executor or Serial()).run(tasks):
            yield task.key, Effect(**effect)
    finally:
        _loaded.clear()


def effect_of(model: Path, data: Path, work: Path, *, plan: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Task: what a plan's cut does on the chosen training pictures.

    Args:
        about: size and choice of the pictures, and the hashes that model and data set must have.

    Raises:
        DataError: the model or the data set here is another one.
    """
    if not _loaded or _loaded[0].about != about:
        found = load(model, data, about["imgsz"], about["images"], about["seed"])
        if found.about != about:
            other = [key for key in about if found.about[key] != about[key]]
            raise DataError(
                "the same path holds something else here", got=f"{data}: {', '.join(other)} differs", fix="copy it anew"
            )
        _loaded[:] = [found]
    at = _loaded[0]
    cut = cut_network(at.prunable, at.network, PruningPlan.model_validate(plan))
    return asdict(measure(cut, at.subset, about["imgsz"], work))


def load(model: Path, data: Path, imgsz: int, images: int, seed: int) -> Loaded:
    """A network in its prunable form, and a seeded choice of training pictures."""
    loaded = load_model(model)
    dataset = load_dataset(data, class_names=loaded.names)
    subset = dataset.only(choose_images(dataset, "train", images, seed))
    prunable, network = analyse(loaded, imgsz)
    about = {"model": loaded.sha256, "data": dataset.sha256, "imgsz": imgsz, "images": images, "seed": seed}
    return Loaded(model, data, loaded, dataset, subset, prunable, network, about)


# --- what was measured -------------------------------------------------------------------------------------------------------


def read_rows(folder: Path, job: dict[str, Any]) -> list[Row]:
    """Whole lines of the same job; a line torn by a kill is ignored."""
    rows = []
    for entry in read_lines(folder / FILE):
        try:
            if entry.pop("job") == job:
                rows.append(Row(**entry))
        except (TypeError, KeyError):  # of another version: measured again
            continue
    return rows


def guard(rows: Sequence[Row], allowed_drop: float) -> dict[str, float]:
    """Least kept share of each group that alone costs at most `allowed_drop` mAP50-95; 1 where the mildest cut costs more."""
    least: dict[str, float] = {}
    closed: set[str] = set()
    for row in sorted(rows, key=lambda r: -r.kept_ratio):
        least.setdefault(row.group, 1.0)
        if row.map_drop > allowed_drop:
            closed.add(row.group)
        elif row.group not in closed:
            least[row.group] = row.kept_ratio
    return least
