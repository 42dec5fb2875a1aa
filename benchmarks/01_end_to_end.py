"""The whole job against what a user gets from `yolo export` today: speed in turns, mAP of the engines' own outputs.

    python benchmarks/01_end_to_end.py --model best.pt --data data.yaml --imgsz 320 --ratio 0.8 --out runs/e2e

The dense rival is `yolo export format=onnx` (FP32). Needs ultralytics; trains for `--epochs`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import save

from toolchain import verbs
from toolchain.config import load_config
from toolchain.device.pace import pace_of
from toolchain.pipeline import run


def yolo_export(model: Path, imgsz: int, folder: Path) -> Path:
    """`yolo export format=onnx` of a copy, so that nothing is written beside the user's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "dense.pt"
    shutil.copyfile(model, copy)
    code = f"from ultralytics import YOLO; YOLO({str(copy)!r}).export(format='onnx', imgsz={imgsz})"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return copy.with_suffix(".onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", default="end-to-end")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--ratio", type=float, default=0.8)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    flags = {
        "model": args.model, "data": args.data, "imgsz": args.imgsz, "out": args.out, "split": args.split,
        "prune.ratio": args.ratio, "prune.steps": args.steps, "train.epochs": args.epochs,
    }  # fmt: skip
    started = time.monotonic()
    summary = run(load_config(None, flags))
    whole_s = time.monotonic() - started
    rival = yolo_export(args.model, args.imgsz, args.out / "yolo-export")
    bundles = args.out / "stages" / "build"
    engines = {
        "yolo-export-fp32": rival,
        "ours-dense-fp32": bundles / "dense" / "engine.onnx",
        "pruned-fp32": bundles / "pruned" / "engine.onnx",
        "pruned-int8": bundles / "pruned-int8" / "engine.onnx",
    }
    result = verbs.bench(engines, args.out / "bench-vs-yolo-export", pace=pace_of("quick", rounds=args.rounds))
    accuracy = {
        label: verbs.evaluate(path, args.out / "work", data=args.data, imgsz=args.imgsz, split=args.split, name=f"e2e-{label}")
        for label, path in engines.items()
    }
    rows = {
        label: {
            "latency_ms": engine.p50_ms,
            "speedup": None if engine.speedup is None else [engine.speedup.value, engine.speedup.low, engine.speedup.high],
            "map50": accuracy[label]["map50"],
            "map50_95": accuracy[label]["map50_95"],
            "size_bytes": engine.size_bytes,
        }
        for label, engine in result.engines.items()
    }
    figures = {
        "rows": rows, "valid": result.valid, "reasons": result.reasons, "control": result.to_json()["control"],
        "split": args.split, "shared_with_train": accuracy["pruned-int8"]["shared_with_train"],
        "reached": summary["prune"]["reached"], "stages": summary["stages"], "wall_s_this_call": whole_s,
        "map_lost": rows["yolo-export-fp32"]["map50_95"] - rows["pruned-int8"]["map50_95"],
        "map_lost_to_int8": rows["pruned-fp32"]["map50_95"] - rows["pruned-int8"]["map50_95"],
    }  # fmt: skip
    save(args.name, figures, {key: str(value) for key, value in vars(args).items() if key not in ("model", "data", "out")})
    for label, row in rows.items():
        print(f"{label:18s} {row['latency_ms']:7.2f} ms  x{(row['speedup'] or [1])[0]:.2f}  mAP50-95 {row['map50_95']:.4f}")


if __name__ == "__main__":
    main()
