"""What winning accuracy back without training is worth: mAP50-95 right after a cut, and after the same short fine-tune.

    python benchmarks/13_recovery.py --model best.pt --data data.yaml --imgsz 256 --ratios 0.3 0.5 0.7 --epochs 0 --out runs/table

Every kind of compensation at every share of multiply-adds; the seed chooses the pictures that teach, and what training draws.
Cells already in OUT are kept, so a stopped script goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import save

from toolchain.pruning.prune import PruneRequest, plan_cut, prune
from toolchain.pruning.recovery import KINDS
from toolchain.stage import write_json
from toolchain.yolo.checkpoint import load_model
from toolchain.yolo.dataset import load_dataset
from toolchain.yolo.evaluate import evaluate_module
from toolchain.yolo.finetune import finetune
from toolchain.yolo.trainer import TrainSettings


def accuracy(args: argparse.Namespace, checkpoint: Path) -> float:
    loaded = load_model(checkpoint)
    dataset = load_dataset(args.data, class_names=loaded.names)
    return evaluate_module(loaded.module, dataset, args.split, args.imgsz, args.out).map50_95


def cut(args: argparse.Namespace, plan: Path, kind: str, seed: int, work: Path) -> dict[str, Any]:
    """The plan replayed and compensated."""
    request = PruneRequest(imgsz=args.imgsz, seed=seed)
    found = prune(args.model, work, request, data=args.data, plan_file=plan, compensate=kind)["compensation"] or {}
    return {"map_after_cut": accuracy(args, work / "pruned.pt"), **{key: found.get(key) for key in ("effects", "kept", "bn")}}


def tune(args: argparse.Namespace, seed: int, work: Path) -> dict[str, Any]:
    """The same network after a short training."""
    settings = TrainSettings(epochs=args.epochs, val_every=args.epochs, close_mosaic=args.epochs // 3, seed=seed)
    finetune(work.parent / "pruned.pt", work, data=args.data, imgsz=args.imgsz, settings=settings, title=work.parent.name)
    return {"map_after_tune": accuracy(args, work / "tuned.pt")}


def kept(work: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A cell's part, from its file if it is there."""
    work.mkdir(exist_ok=True)
    if not (work / "cell.json").exists():
        write_json(work / "cell.json", make())
    cell: dict[str, Any] = json.loads((work / "cell.json").read_text())
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.3, 0.5, 0.7], help="shares of multiply-adds to remove")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--criterion", default="fisher")
    parser.add_argument("--strategy", default="flops")
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model(args.model)
    dataset = load_dataset(args.data, class_names=loaded.names)
    dense = evaluate_module(loaded.module, dataset, args.split, args.imgsz, args.out).map50_95
    print(f"dense {dense:.4f}", flush=True)
    cells: dict[str, Any] = {}
    for ratio in args.ratios:
        plan = args.out / f"plan-{args.criterion}-{args.strategy}-{args.imgsz}-{ratio}.json"
        if not plan.exists():
            request = PruneRequest(imgsz=args.imgsz, ratio=ratio, criterion=args.criterion, strategy=args.strategy)
            plan_cut(loaded, request, dataset)[2].save(plan)
        for seed in args.seeds:
            for kind in args.kinds:
                work = args.out / f"{plan.stem}-{kind}-{seed}"
                torch.manual_seed(seed)
                cell = kept(work, functools.partial(cut, args, plan, kind, seed, work))
                if args.epochs:
                    below = work / f"tune-{args.epochs}"
                    cell |= kept(below, functools.partial(tune, args, seed, below))
                cells[f"{ratio}/{kind}/{seed}"] = cell
                print(ratio, kind, seed, {key: value for key, value in cell.items() if key.startswith("map")}, flush=True)
    config = {key: value for key, value in vars(args).items() if key not in ("model", "data", "out")}
    save(f"recovery-{args.epochs}-epochs", {"dense_map50_95": dense, "cells": cells}, config)


if __name__ == "__main__":
    main()
