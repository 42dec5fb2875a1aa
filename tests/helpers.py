"""Small things many tests need: a tiny YOLOv8 network and a tiny drawn data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import toolchain.yolo  # noqa: F401  before ultralytics, so that it stays offline

NAMES = {0: "red", 1: "green", 2: "blue"}
COLOURS_BGR = ((40, 40, 220), (40, 200, 40), (220, 60, 40))


def tiny_yaml(nc: int = 3, **changes: Any) -> dict[str, Any]:
    """A YOLOv8-shaped network of about 190 000 parameters with two detection levels (strides 8 and 16)."""
    return {
        "nc": nc,
        "backbone": [
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "Conv", [16, 3, 2]],
            [-1, 1, "C2f", [16, True]],
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "C2f", [32, True]],
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "SPPF", [32, 5]],
        ],
        "head": [
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
            [[-1, 4], 1, "Concat", [1]],
            [-1, 1, "C2f", [32]],
            [[9, 6], 1, "Detect", ["nc"]],
        ],
        **changes,
    }


def tiny_model(nc: int = 3, seed: int = 0, **changes: Any) -> Any:
    """A `DetectionModel` of `tiny_yaml`, in eval mode, its weights and BN statistics spread out and fixed by the seed."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DetectionModel(tiny_yaml(nc, **changes), ch=3, nc=nc, verbose=False)
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.data.uniform_(0.5, 1.5)
    model.names = {i: NAMES.get(i, str(i)) for i in range(nc)}
    return model.eval()


def live_model(nc: int = 3, seed: int = 0, **changes: Any) -> Any:
    """`tiny_model` with BN statistics of what it sees, so that signals reach the outputs undamped: a change anywhere shows."""
    import torch

    model = tiny_model(nc, seed, **changes)
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum, before = None, layer.momentum  # cumulative mean
    model.train()
    with torch.no_grad():
        model(pictures)
    for layer in norms:
        layer.momentum = before
    return model.eval()


def tiny_dataset(folder: Path, images: Mapping[str, int] | None = None, size: tuple[int, int] = (96, 64), seed: int = 0) -> Path:
    """Grey pictures with one filled rectangle per class, labelled exactly.

    Args:
        size: height, width in pixels.

    Returns:
        the data YAML, with paths relative to itself.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    images = {"train": 3, "val": 4} if images is None else images
    for split, count in images.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            picture, rows = np.full((height, width, 3), 128, np.uint8), []
            for cls, colour in enumerate(COLOURS_BGR):  # one horizontal band each, so that none hides another
                top = cls * height // 3 + int(rng.integers(1, 4))
                high, wide = int(rng.integers(12, height // 3 - 4)), int(rng.integers(12, width // 2))
                left = int(rng.integers(0, width - wide))
                cv2.rectangle(picture, (left, top), (left + wide - 1, top + high - 1), colour, -1)
                rows.append((cls, (left + wide / 2) / width, (top + high / 2) / height, wide / width, high / height))
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), picture)
            text = "".join(" ".join(f"{value:.6g}" for value in row) + "\n" for row in rows)
            (folder / "labels" / split / f"{number}.txt").write_text(text)
    lines = [f"{split}: images/{split}" for split in images] + ["names:"] + [f"  {key}: {name}" for key, name in NAMES.items()]
    path = folder / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
