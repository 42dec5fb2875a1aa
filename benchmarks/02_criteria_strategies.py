"""Every criterion with every strategy at the same share of multiply-adds, before and after the same short fine-tune.

    python benchmarks/02_criteria_strategies.py --model best.pt --data data.yaml --imgsz 320 --macs 0.5 --out runs/table

A strategy's own ratio is searched so that every cell removes the same share of multiply-adds: a channel ratio means something
else to each of them. Cells already in OUT are kept, so a stopped script goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import save

from toolchain.pruning.apply import apply_plan
from toolchain.pruning.criteria import CRITERIA, GroupScores, Subject, score
from toolchain.pruning.groups import Network
from toolchain.pruning.plan import make_plan
from toolchain.pruning.prune import analyse, gather, proof_images
from toolchain.selection.strategies import Ask, choose
from toolchain.stage import write_json
from toolchain.yolo.checkpoint import load_model
from toolchain.yolo.dataset import load_dataset
from toolchain.yolo.evaluate import evaluate_module
from toolchain.yolo.finetune import list_data
from toolchain.yolo.trainer import TrainSettings, fine_tune

STRATEGIES = ("uniform", "depth-aware", "global", "flops")
ALIGN = 8


def widths_at(network: Network, scores: GroupScores, strategy: str, macs: float) -> tuple[dict[str, int], float]:
    """Widths and the strategy's own ratio, by bisection, that come nearest to removing `macs` of the multiply-adds."""
    low, high = 0.0, 0.999
    best: tuple[float, dict[str, int], float] | None = None
    for _ in range(12):
        ratio = (low + high) / 2
        widths = choose(network, scores, Ask(ratio=ratio, align=ALIGN), strategy)
        removed = 1 - network.macs(widths) / network.macs({})
        if best is None or abs(removed - macs) < best[0]:
            best = abs(removed - macs), widths, ratio
        low, high = (low, ratio) if removed > macs else (ratio, high)
    assert best is not None
    return best[1], best[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--macs", type=float, default=0.5, help="share of multiply-adds to remove")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--split", default="val")
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model(args.model)
    dataset = load_dataset(args.data, class_names=loaded.names)
    prunable, network = analyse(loaded, args.imgsz)
    subject = Subject(prunable, gather(prunable, dataset, args.imgsz, None, 0), 0)
    dense = evaluate_module(loaded.module, dataset, args.split, args.imgsz, args.out).map50_95
    data, images = list_data(dataset, args.out), proof_images(dataset, args.imgsz)
    cells: dict[str, Any] = {}
    for criterion in args.criteria:
        scores = score(network, subject, criterion)
        for strategy in STRATEGIES:
            key = f"{criterion}/{strategy}"
            kept = args.out / f"{criterion}-{strategy}-{args.imgsz}-{args.macs}-{args.epochs}-{args.split}.json"
            if not kept.exists():
                widths, ratio = widths_at(network, scores, strategy, args.macs)
                plan = make_plan(
                    network, widths, scores, model_sha256=loaded.sha256, imgsz=args.imgsz, criterion=criterion, strategy=strategy,
                    asked_ratio=ratio, align=ALIGN,
                )  # fmt: skip
                cut = apply_plan(loaded.module, prunable, network, plan, images)
                before = evaluate_module(cut.network, dataset, args.split, args.imgsz, args.out).map50_95
                torch.manual_seed(0)
                settings = TrainSettings(epochs=args.epochs, val_every=args.epochs, close_mosaic=0)
                tuned = fine_tune(
                    cut.network,
                    data,
                    args.imgsz,
                    args.out / f"{criterion}-{strategy}",
                    settings,
                    teacher=loaded.module,
                    title=key,
                )
                after = evaluate_module(tuned.network, dataset, args.split, args.imgsz, args.out).map50_95
                write_json(kept, {"ratio": ratio, "macs_removed": plan.reached.macs, "params_removed": plan.reached.params,
                                  "map_after_cut": before, "map_after_tune": after})  # fmt: skip
            cells[key] = json.loads(kept.read_text())
            print(f"{key:22s} {cells[key]}", flush=True)
    config = {"imgsz": args.imgsz, "macs": args.macs, "epochs": args.epochs, "split": args.split, "align": ALIGN}
    save("criteria-strategies", {"dense_map50_95": dense, "cells": cells}, config)


if __name__ == "__main__":
    main()
