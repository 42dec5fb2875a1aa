"""What a selection costs beside the usual sensitivity: validating the whole set for every layer at several pruning ratios.

    python benchmarks/17_selection_cost.py --model best.pt --data data.yaml --imgsz 320 --out runs/cost     # a quiet machine
    python benchmarks/17_selection_cost.py --model best.pt --data data.yaml --imgsz 64 --out /tmp/cost --dry

The naive way is not run whole: the time of one cut and validation is measured on some layers (--measured), spread over the
network, and multiplied by the number of layers and ratios; the result says so (`computed_s`). It needs no device and learns
nothing of latency. Ours is `toolchain select` with an empty store of timings. --dry: few samples and layers, to see that it
runs; nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import save

from toolchain import verbs
from toolchain.config import SelectSection
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.memory import peak_memory
from toolchain.pruning.prune import PruneRequest, analyse
from toolchain.selection.budget import parse_budgets
from toolchain.yolo.checkpoint import load_model

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def naive(args: argparse.Namespace, measured: int) -> dict[str, Any]:
    """Seconds of a cut and a validation of the whole `val` split, and what all layers at all ratios would take."""
    groups = [g.name for g in analyse(load_model(args.model), args.imgsz)[1].free if g.channels >= 2 * args.align]
    some = groups[:: max(1, len(groups) // measured)][:measured]
    seconds = []
    with peak_memory() as memory:
        for i, group in enumerate(some):
            out = args.out / "naive" / f"{i}"
            out.mkdir(parents=True, exist_ok=True)
            request = PruneRequest(
                imgsz=args.imgsz, criterion="l1", strategy="per-layer", layers={group: 0.5}, align=args.align, ratio=0.0
            )
            started = time.monotonic()
            verbs.prune(args.model, out, request, data=args.data)
            verbs.evaluate(out / "pruned.pt", out / "judged", data=args.data, imgsz=args.imgsz, split="val")
            seconds.append(time.monotonic() - started)
    validations = len(groups) * len(RATIOS)
    return {
        "layers": len(groups), "ratios": RATIOS, "validations": validations, "measured_s": seconds, "each_s": mean(seconds),
        "spread_s": stdev(seconds) if len(seconds) > 1 else None, "computed_s": validations * mean(seconds),
        "peak_mb": memory.peak_mb,
    }  # fmt: skip


def ours(args: argparse.Namespace) -> dict[str, Any]:
    """A selection that knows nothing of the device, stage by stage; of one that was stopped, both parts count."""
    os.environ["EDGE_CACHE"] = str((args.out / "fresh").resolve())
    out = args.out / "select"
    out.mkdir(parents=True, exist_ok=True)
    small = {"samples": 20, "rounds": 1, "check": 3, "criterion": "l1"} if args.dry else {"samples": args.samples}
    result = verbs.select(
        [args.model], out, parse_budgets([f"latency={args.budget}x"]), data=args.data, sizes=[args.imgsz],
        on=On(args.host, threads=args.threads), align=args.align, section=SelectSection(precision=args.precision, **small),
    )  # fmt: skip
    rows = result["spent"]
    return {
        "wall_s": sum(row["wall_s"] + row["earlier_wall_s"] for row in rows),
        "device_s": sum(row["device_s"] + row["earlier_device_s"] for row in rows),
        "peak_mb": max((row["peak_mb"] for row in rows if row["peak_mb"] is not None), default=None),
        "measured": result["measured"], "rounds": len(result["rounds"]), "latency_model": result["latency_model"],
        "stages": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--budget", default="0.5")
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"])
    parser.add_argument("--host", default="local")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--align", type=int, default=load_target("host-cpu").channel_alignment)
    parser.add_argument("--samples", type=int, help="plans timed; default: 40 to 100, while the model gets better")
    parser.add_argument("--measured", type=int, default=10, help="validations that are really done")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {"ours": ours(args), "naive": naive(args, 2 if args.dry else args.measured)}
    for row in figures["ours"]["stages"]:
        wall_s, device_s = (row[key] + row[f"earlier_{key}"] for key in ("wall_s", "device_s"))
        print(f"{row['stage']}: {wall_s:.1f} s, device {device_s:.1f} s, peak {row['peak_mb']} MB")
    print("ours: {wall_s:.0f} s, of it the device {device_s:.0f} s".format(**figures["ours"]))
    print("naive: {validations} validations of {each_s:.1f} s: {computed_s:.0f} s (computed)".format(**figures["naive"]))
    if not args.dry:
        config = {
            key: str(vars(args)[key])
            for key in ("imgsz", "budget", "precision", "host", "threads", "samples", "align", "measured")
        }
        save("selection-cost", figures, config)


if __name__ == "__main__":
    main()
