"""The fine-tune stage: a pruned checkpoint in, `tuned.pt` out, with the dense parent as teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolchain.errors import TrainingError
from toolchain.stage import write_bytes
from toolchain.yolo.checkpoint import load_model, save_checkpoint
from toolchain.yolo.dataset import Dataset, load_dataset
from toolchain.yolo.trainer import TrainSettings, fine_tune


def finetune(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    settings: TrainSettings,
    teacher: Path | None = None,
    title: str = "Fine-tuning",
) -> dict[str, Any]:
    """Write `out/tuned.pt`: the best validated moving average; an unfinished training in `out` goes on.

    Args:
        model: checkpoint to train, cut or not.
        out: existing folder.
        data: data YAML.
        imgsz: side of the training pictures, pixels.
        settings: hyper-parameters.
        teacher: dense parent; None trains without distillation.

    Returns:
        parameters before and after (equal), best epoch, curve.

    Raises:
        TrainingError: the teacher has other classes, or training failed.
    """
    loaded = load_model(model)
    dataset = load_dataset(data, class_names=loaded.names)
    parent = load_model(teacher) if teacher is not None and settings.distill.any else None
    if parent is not None and parent.names != loaded.names:
        raise TrainingError("the teacher has other classes", got=f"{parent.names} and {loaded.names}")
    before = sum(p.numel() for p in loaded.module.parameters())
    listed = list_data(dataset, out)
    job = {"model": loaded.sha256, "teacher": parent.sha256 if parent else "", "data": dataset.sha256}
    tuned = fine_tune(
        loaded.module, listed, imgsz, out, settings, teacher=parent.module if parent else None, job=job, title=title
    )
    after = sum(p.numel() for p in tuned.network.parameters())
    if after != before:
        raise TrainingError("training changed the network's size", got=f"{before} parameters before, {after} after")
    save_checkpoint(
        out / "tuned.pt",
        tuned.network,
        names=loaded.names,
        train_args={**loaded.train_args, "imgsz": imgsz},
        extra={**loaded.extra, "stage": "tuned", "parent_sha256": loaded.sha256},
    )
    return {
        "parameters": after,
        "epochs": settings.epochs,
        "best_epoch": tuned.best_epoch,
        "best_map50_95": tuned.best_fitness,
        "curve": tuned.curve,
        "distilled": parent is not None,
    }


def list_data(dataset: Dataset, out: Path) -> Path:
    """A data YAML of absolute picture lists, so that ultralytics trains on exactly the pictures that were checked."""
    config: dict[str, Any] = {"names": dataset.names, "path": str(out.resolve())}
    for split, images in dataset.splits.items():
        (out / f"{split}.txt").write_text("\n".join(str(image.resolve()) for image in images) + "\n")
        config[split] = f"{split}.txt"
    config.setdefault("val", config["train"])
    path = out / "data.yaml"
    write_bytes(path, yaml.safe_dump(config, allow_unicode=True).encode())
    return path
