"""Sensitivity: what narrowing one dependency group alone does to the loss, the mAP and the boxes, through the real cut.

Measured on training pictures, so that nothing is chosen on the pictures that judge the result. Every (group, width) is one line
of `sensitivity.jsonl`, written as soon as it is known: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolchain import progress
from toolchain.predictions import Predictions, candidates
from toolchain.pruning.apply import cut_network
from toolchain.pruning.criteria import NEEDS_IMAGES, GroupScores, Subject, score
from toolchain.pruning.groups import Network
from toolchain.pruning.plan import make_plan
from toolchain.pruning.prune import analyse, gather
from toolchain.selection.strategies import Ask, nearest_width
from toolchain.stage import write_json
from toolchain.yolo.checkpoint import load_model
from toolchain.yolo.dataset import Dataset, load_dataset
from toolchain.yolo.evaluate import evaluate_predictions, matched_box_iou, prepare_split
from toolchain.yolo.loss import choose_images, labelled_batches, raw_loss

FILE, SUMMARY = "sensitivity.jsonl", "sensitivity.json"
BATCH = 8


@dataclass(frozen=True)
class Effect:
    """What a network does on the chosen training pictures: mean loss per picture, mAP50-95, mean IoU of matched boxes."""

    loss: float
    map50_95: float
    box_iou: float | None


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
    images: int = 64, align: int = 8, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure every free group at every pruned ratio; write one line each and `out/sensitivity.json`.

    Args:
        model: detection `.pt`.
        out: existing folder; lines already there are kept if they are of the same job.
        data: data YAML; only `train` is used.
        criterion: ranks the channels inside a group.
        ratios: pruned shares to try; widths are aligned, equal widths are measured once.
        images: training pictures.
    """
    loaded = load_model(model)
    dataset = load_dataset(data, class_names=loaded.names)
    chosen = choose_images(dataset, "train", images, seed)
    subset = replace(
        dataset, splits={"train": [dataset.images("train")[i] for i in chosen]}, sha256=f"{dataset.sha256}:{seed}:{images}"
    )
    prunable, network = analyse(loaded, imgsz)
    evidence = gather(prunable, dataset, imgsz, images, seed) if criterion in NEEDS_IMAGES else None
    scores = score(network, Subject(prunable, evidence, seed), criterion)
    job = {
        "model": loaded.sha256,
        "data": dataset.sha256,
        "imgsz": imgsz,
        "criterion": criterion,
        "images": images,
        "align": align,
        "seed": seed,
    }
    done = {(row.group, row.kept): row for row in read_rows(out, job)}
    todo = list(_widths(network, ratios, align))
    base: Effect | None = None
    mend(out / FILE)
    with (out / FILE).open("a") as stream, progress.task("Measuring sensitivity", len(todo), "widths") as bar:
        for name, kept in todo:
            if (name, kept) not in done:
                base = base or measure(prunable, subset, imgsz, out)
                row = _measure_one(prunable, network, scores, subset, imgsz, out, base, name, kept)
                stream.write(json.dumps({"job": job, **asdict(row)}) + "\n")
                stream.flush()
                done[(name, kept)] = row
            bar.advance(note=name)
    rows = [asdict(done[key]) for key in todo]
    result = {"job": job, "images": len(chosen), "rows": rows}
    write_json(out / SUMMARY, result)
    return result


def _widths(network: Network, ratios: Sequence[float], align: int) -> Iterator[tuple[str, int]]:
    for group in network.free:
        widths = {nearest_width(group, group.channels * (1 - ratio), Ask(align=align)) for ratio in ratios}
        for width in sorted(widths - {group.channels}, reverse=True):
            yield group.name, width


def _measure_one(
    prunable: Any,
    network: Network,
    scores: GroupScores,
    subset: Dataset,
    imgsz: int,
    work: Path,
    base: Effect,
    name: str,
    kept: int,
) -> Row:
    group = network.group(name)
    widths = {g.name: g.channels for g in network.free} | {name: kept}
    plan = make_plan(network, widths, scores, model_sha256="", imgsz=imgsz, criterion="", strategy="", asked_ratio=0, align=1)
    effect = measure(cut_network(prunable, network, plan), subset, imgsz, work)
    iou = None if effect.box_iou is None or base.box_iou is None else base.box_iou - effect.box_iou
    return Row(name, group.channels, kept, kept / group.channels, effect.loss - base.loss, base.map50_95 - effect.map50_95, iou)


@torch.no_grad()
def measure(module: Any, subset: Dataset, imgsz: int, work: Path) -> Effect:
    """Loss, mAP and box IoU of one forward pass over the subset's `train` pictures."""
    module.eval()
    _, letterboxes = prepare_split(subset, "train", imgsz, work)
    count = len(subset.images("train"))
    losses, rows, counts = [], [], []
    for batch in labelled_batches(subset, "train", range(count), imgsz, BATCH):
        decoded, raw = module(batch["img"])
        losses.append(float(raw_loss(module, raw, batch)) * len(batch["img"]))
        found, each = candidates(decoded.numpy())
        rows.append(found)
        counts.append(each)
    predictions = Predictions(np.concatenate(rows), np.concatenate(counts))
    accuracy = evaluate_predictions(predictions, subset, "train", imgsz, letterboxes)
    iou = matched_box_iou(predictions, subset, "train", imgsz, letterboxes)
    return Effect(sum(losses) / count, accuracy.map50_95, iou if iou is None or np.isfinite(iou) else None)


def mend(path: Path) -> None:
    """End a line torn by a kill, so that the next row does not become part of it."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as stream:
            stream.write("\n")


def read_rows(folder: Path, job: dict[str, Any]) -> list[Row]:
    """Whole lines of the same job; a line torn by a kill is ignored."""
    path, rows = folder / FILE, []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            if entry.pop("job") == job:
                rows.append(Row(**entry))
        except (ValueError, TypeError, KeyError, AttributeError):  # torn, or of another version: measured again
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
