"""`toolchain demo`: the whole job from nothing: drawn pictures, a small YOLOv8 trained on them, the real pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.config import BenchSection, PruneSection, RunConfig, TrainSection
from toolchain.demo.dataset import make_dataset
from toolchain.pipeline import run
from toolchain.stage import Stages

IMGSZ = 160
ARCHITECTURE = "yolov8n.yaml"
DENSE_EPOCHS, TUNE_EPOCHS = 16, 16
SHARED: dict[str, Any] = {"lr0": 2e-3, "mosaic": 0.0, "close_mosaic": 0, "extra": {"flipud": 0.5, "scale": 0.3}}


def demo(out: Path, seed: int = 0) -> dict[str, Any]:
    """Data, dense detector, then exactly what `toolchain run` does; goes on after a stop.

    Returns:
        the run's summary; its mAP is of the test split, which neither training nor calibration saw.
    """
    stages = Stages(out / "made")
    progress.note("1/3 drawing a labelled detection set")
    data = (
        stages.run("data", lambda folder: _draw(folder, seed), inputs={}, params={"seed": seed, "imgsz": IMGSZ})
        / "set"
        / "data.yaml"
    )
    progress.note("2/3 training a small dense YOLOv8 on it")
    train = TrainSection(epochs=DENSE_EPOCHS, val_every=8, **SHARED)
    trained = stages.run(
        "dense",
        lambda folder: _train(folder, data, train, seed),
        inputs={"data": data.parent},
        params={**train.model_dump(), "seed": seed},
        keep_outputs=("dense.pt",),
    )
    dense = trained / "dense.pt"
    progress.note("3/3 the pipeline: prune, fine-tune, export, INT8, build, benchmark, report")
    config = RunConfig(
        model=dense, data=data, imgsz=IMGSZ, out=out, split="test", seed=seed,
        prune=PruneSection(ratio=0.6, images=120), train=TrainSection(epochs=TUNE_EPOCHS, val_every=8, **SHARED),
        bench=BenchSection(rounds=9, runs=30),
    )  # fmt: skip
    return run(config, command=f"toolchain demo --out {out} --seed {seed}")


def _draw(folder: Path, seed: int) -> dict[str, Any]:
    return {"data": str(make_dataset(folder / "set", imgsz=IMGSZ, seed=seed).relative_to(folder))}


def _train(folder: Path, data: Path, train: TrainSection, seed: int) -> dict[str, Any]:
    """A detector from random weights, by the same trainer that fine-tunes."""
    import torch

    from toolchain.verbs import finetune
    from toolchain.yolo.checkpoint import load_model, save_checkpoint
    from toolchain.yolo.dataset import load_dataset

    torch.manual_seed(seed)
    names = load_dataset(data).names
    fresh = load_model(Path(ARCHITECTURE), nc=len(names))
    untrained = folder / "untrained.pt"
    save_checkpoint(untrained, fresh.module, names=names, train_args={"imgsz": IMGSZ}, extra={"stage": "untrained"})
    result = finetune(untrained, folder, data=data, imgsz=IMGSZ, train=train, seed=seed, title="Training the dense detector")
    (folder / "tuned.pt").rename(folder / "dense.pt")
    return result
