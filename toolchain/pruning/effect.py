"""What a network does on training pictures: loss, mAP and boxes of one pass over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolchain.predictions import Predictions, candidates
from toolchain.yolo.dataset import Dataset
from toolchain.yolo.evaluate import evaluate_predictions, matched_box_iou, prepare_split
from toolchain.yolo.loss import labelled_batches, raw_loss

BATCH = 8


@dataclass(frozen=True)
class Effect:
    """What a network does on the chosen training pictures: mean loss per picture, mAP50-95, mean IoU of matched boxes."""

    loss: float
    map50_95: float
    box_iou: float | None


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
