"""Verbs on networks: fine-tune, export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress, requests
from toolchain.config import ExportSection, TrainSection
from toolchain.errors import UsageError
from toolchain.executor.registry import Scale, make_executor
from toolchain.executor.task import Task
from toolchain.pruning.prune import check_imgsz
from toolchain.stage import Begun, Stage, Stages

PARITY_IMAGES = 4
HERE = Scale()


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


def finetune_all(
    models: Mapping[str, Path],
    out: Path,
    *,
    data: Path,
    imgsz: int,
    train: TrainSection,
    teacher: Path | None = None,
    seed: int = 0,
    scale: Scale = HERE,
) -> dict[str, dict[str, Any]]:
    """Fine-tune several networks, each a task and a stage folder `out/NAME`: whole or absent, never done twice.

    Args:
        models: name -> checkpoint.
        scale: where the trainings run.

    Returns:
        name -> what `finetune` returns.

    Raises:
        UsageError: a name that is no name for a folder.
        TaskError: some failed; the others are done.
    """
    from toolchain.yolo.dataset import load_dataset

    bad = [name for name in models if not name or Path(name).name != name or name.startswith(".")]
    if bad:
        raise UsageError("not a name for a folder", got=bad, fix="NAME=PATH")
    requests.check_training(train, seed)
    executor, stages = make_executor(scale), Stages(out)
    inputs: dict[str, Path | str] = {"data": load_dataset(data).sha256, **({} if teacher is None else {"teacher": teacher})}
    params = {"train": train.model_dump(mode="json"), "imgsz": imgsz, "seed": seed}
    begun = {name: stages.begin(name, inputs={**inputs, "model": model}, params=params) for name, model in models.items()}
    done = {name: one.result for name, one in begun.items() if isinstance(one, Stage)}
    left = {name: one for name, one in begun.items() if isinstance(one, Begun)}
    files = {} if teacher is None else {"teacher": teacher.absolute()}
    task = Task(
        "", f"{__name__}:finetune_task", {**params, "teacher": None}, files=files, places={"data": data.absolute()},
        gpus=int(train.device != "cpu"),
    )  # fmt: skip
    tasks = [
        replace(task, key=name, files={**files, "model": models[name].absolute()}, out=one.folder.absolute())
        for name, one in left.items()
    ]
    with progress.task("Fine-tuning networks", len(models), "networks") as bar:
        bar.advance(len(done))
        for finished, result in executor.run(tasks):
            done[finished.key] = stages.finish(left[finished.key], result, ("tuned.pt",)).result
            bar.advance(note=finished.key)
    return {name: done[name] for name in models}


def finetune_task(
    model: Path, data: Path, out: Path, *, imgsz: int, train: dict[str, Any], teacher: Path | None, seed: int
) -> dict[str, Any]:
    """Task of `finetune_all`: goes on from what `out` holds."""
    return finetune(model, out, data=data, imgsz=imgsz, train=TrainSection(**train), teacher=teacher, seed=seed)


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
        short_dfl=bool(section.short_dfl),
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
