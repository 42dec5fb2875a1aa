"""The detection loss on labelled pictures as the network sees them in evaluation: letterboxed, not augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.cfg import get_cfg

from toolchain.imaging import Letterbox, network_input, read_image
from toolchain.yolo.dataset import Dataset, read_labels


def place_labels(
    labels: np.ndarray[Any, np.dtype[np.float32]], box: Letterbox, imgsz: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(k, 5) class, cx, cy, w, h of the picture (0..1) -> the same of the letterboxed network input (0..1)."""
    placed = labels.astype(np.float32).copy()
    placed[:, [1, 3]] *= box.width * box.scale / imgsz
    placed[:, [2, 4]] *= box.height * box.scale / imgsz
    placed[:, 1] += box.left / imgsz
    placed[:, 2] += box.top / imgsz
    return placed


def choose_images(dataset: Dataset, split: str, count: int | None, seed: int) -> list[int]:
    """Indices of a seeded choice of pictures, in order; all of them if `count` is None or not smaller."""
    total = len(dataset.images(split))
    if count is None or count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist())


def labelled_batches(dataset: Dataset, split: str, indices: Sequence[int], imgsz: int, batch: int) -> Iterator[dict[str, Any]]:
    """Stream batches in ultralytics' training form, one in memory at a time."""
    images, labels = dataset.images(split), read_labels(dataset, split)
    for start in range(0, len(indices), batch):
        yield _batch(
            [images[i] for i in indices[start : start + batch]], [labels[i] for i in indices[start : start + batch]], imgsz
        )


def _batch(paths: Sequence[Path], labels: Sequence[np.ndarray[Any, np.dtype[np.float32]]], imgsz: int) -> dict[str, Any]:
    inputs, rows = [], []
    for index, (path, boxes) in enumerate(zip(paths, labels, strict=True)):
        array, placed = network_input(read_image(path), imgsz)
        inputs.append(array)
        rows.append(np.concatenate([np.full((len(boxes), 1), index, np.float32), place_labels(boxes, placed, imgsz)], axis=1))
    table = torch.from_numpy(np.concatenate(rows))
    return {
        "img": torch.from_numpy(np.stack(inputs)).float() / 255,
        "batch_idx": table[:, 0],
        "cls": table[:, 1:2],
        "bboxes": table[:, 2:],
    }


def raw_loss(network: Any, raw: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
    """Mean loss per picture (box + cls + dfl with ultralytics' default gains) of raw head outputs, differentiable."""
    from ultralytics.utils.loss import v8DetectionLoss

    args, network.args = getattr(network, "args", None), get_cfg()
    try:
        criterion = v8DetectionLoss(network)
    finally:
        network.args = args
    total: torch.Tensor = criterion(raw, batch)[0].sum() / len(batch["img"])
    return total


def detection_loss(network: Any, batch: dict[str, Any]) -> torch.Tensor:
    """`raw_loss` of a forward pass; BN layers keep the mode they are in."""
    out = network(batch["img"])
    return raw_loss(network, out[1] if isinstance(out, (tuple, list)) else out, batch)
