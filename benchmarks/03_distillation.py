"""Does distillation pay? The same cut network fine-tuned with and without the dense teacher: same epochs, and same time.

    python benchmarks/03_distillation.py --model best.pt --data data.yaml --imgsz 256 --ratio 0.8 --out runs/distil

Runs already in OUT are kept, so a stopped script goes on. "same time" trains without teacher for as many epochs as the time of
the distilled run allows. Every run's mAP50-95 is that of its last epoch, so no epoch is picked by its score.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from common import save

from toolchain.pruning.prune import PruneRequest, prune
from toolchain.stage import write_json
from toolchain.yolo.distill import DistillWeights
from toolchain.yolo.finetune import finetune
from toolchain.yolo.trainer import TrainSettings

OFF = DistillWeights(scores=0, boxes=0)


def train(args: argparse.Namespace, name: str, epochs: int, weights: DistillWeights, seed: int) -> dict[str, Any]:
    """One fine-tune, or what is known of it from before."""
    kept = args.out / f"{name}-{args.imgsz}-{args.ratio}-{epochs}.json"
    if not kept.exists():
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)  # a run that was cut short has no honest duration
        folder.mkdir(parents=True)
        settings = TrainSettings(epochs=epochs, val_every=epochs, close_mosaic=2, seed=seed, distill=weights)
        started = time.monotonic()
        result = finetune(
            args.out / "pruned.pt", folder, data=args.data, imgsz=args.imgsz, settings=settings, teacher=args.model, title=name
        )
        last = result["curve"][-1]
        write_json(kept, {"epochs": epochs, "seed": seed, "map50_95": last["map50_95"], "wall_s": time.monotonic() - started})
    found: dict[str, Any] = json.loads(kept.read_text())
    print(name, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.8)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "pruned.pt").exists():  # use another --out for another ratio, size or model
        prune(args.model, args.out, PruneRequest(imgsz=args.imgsz, ratio=args.ratio), data=args.data)
    figures: dict[str, Any] = {}
    for seed in args.seeds:
        distilled = train(args, f"distilled-{seed}", args.epochs, DistillWeights(), seed)
        plain = train(args, f"plain-{seed}", args.epochs, OFF, seed)
        epochs = max(round(args.epochs * distilled["wall_s"] / plain["wall_s"]), args.epochs)
        longer = train(args, f"plain-same-time-{seed}", epochs, OFF, seed)
        figures[f"seed {seed}"] = {"distilled": distilled, "plain, same epochs": plain, "plain, same time": longer}
    save("distillation", figures, {"imgsz": args.imgsz, "ratio": args.ratio, "epochs": args.epochs})


if __name__ == "__main__":
    main()
