"""Verbs on networks: fine-tune, export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import requests
from toolchain.config import ExportSection, TrainSection
from toolchain.pruning.prune import check_imgsz

PARITY_IMAGES = 4


def finetune(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    train: TrainSection,
    teacher: Path | None = None,
    seed: int = 0,
    title: str = "Fine-tuning",
) -> dict[str, Any]:
    """Train the network itself, distilled from `teacher` if there is one; writes `tuned.pt`."""
    from toolchain.yolo.finetune import finetune as stage

    return stage(model, out, data=data, imgsz=imgsz, settings=requests.train_settings(train, seed), teacher=teacher, title=title)


def export(model: Path, out: Path, *, data: Path | None, imgsz: int, export: ExportSection | None = None) -> dict[str, Any]:
    """Checkpoint -> `model.onnx` that agrees with torch on real pictures (seeded noise when there is no data)."""
    from toolchain.export.exporter import export_onnx
    from toolchain.imaging import network_input, read_image
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.loss import choose_images

    section = export or ExportSection()
    loaded = load_model(model)
    check_imgsz(imgsz, loaded.stride)
    if data is None:
        images = np.random.default_rng(0).integers(0, 256, (PARITY_IMAGES, 3, imgsz, imgsz), dtype=np.uint8)
    else:
        dataset = load_dataset(data, class_names=loaded.names)
        paths = dataset.images("train")
        images = np.stack(
            [network_input(read_image(paths[i]), imgsz)[0] for i in choose_images(dataset, "train", PARITY_IMAGES, 0)]
        )
    return export_onnx(
        loaded.module,
        out,
        imgsz=imgsz,
        names=loaded.names,
        stride=loaded.stride,
        parity_images=images,
        opset=section.opset,
        dynamic_batch=section.dynamic_batch,
        simplify=section.simplify,
    )


def sensitivity_page(result: Mapping[str, Any], out: Path, title: str) -> Path:
    """The sensitivity plot as a page of its own."""
    import datetime

    from toolchain.report.html import write_report

    rows = [{"group": r["group"], "kept_ratio": r["kept_ratio"], "drop": r["map_drop"]} for r in result["rows"]]
    created = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    write_report(
        {"title": title, "created": created, "command": "toolchain sensitivity", "sensitivity": rows}, out / "sensitivity.html"
    )
    return out / "sensitivity.html"
