"""Does the engine meet the budget? Latency budgets in both precisions: rounds needed, measured against asked, wall time.

    python benchmarks/09_budgets.py --model best.pt --data data.yaml --imgsz 320 --out runs/budgets

The last column is measured again at the end, each chosen engine in turns with the dense one, by the benchmark itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import onnx
from common import save

from toolchain import verbs
from toolchain.config import SelectSection
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.errors import BudgetError
from toolchain.pruning.prune import analyse
from toolchain.selection.budget import parse_budgets
from toolchain.selection.timed import cut
from toolchain.verbs.selecting import dense_engine
from toolchain.yolo.checkpoint import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--budgets", nargs="*", default=["0.7", "0.5", "0.35"])
    parser.add_argument("--precisions", nargs="*", default=["fp32", "int8"])
    parser.add_argument("--samples", type=int, help="default: 40 to 100, while the model gets better")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    on, rows = On(threads=args.threads), []
    network = analyse(load_model(args.model), args.imgsz)[1]
    for precision in args.precisions:
        for share in args.budgets:
            out = args.out / f"{precision}-{share}"
            out.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            try:
                result = verbs.select(
                    [args.model], out, parse_budgets([f"latency={share}x"]), data=args.data, sizes=[args.imgsz], on=on,
                    align=load_target("host-cpu").channel_alignment,
                    section=SelectSection(precision=precision, samples=args.samples, check=0),
                )  # fmt: skip
            except BudgetError as error:
                rows.append({"precision": precision, "asked": float(share), "measured": None, "refused": str(error)})
            else:
                found = row(precision, share, result, time.monotonic() - started)
                rows.append(found | again(args, out, precision, network, result, on))
            print(rows[-1], flush=True)
    save("budgets", {"rows": rows}, {"imgsz": args.imgsz, "samples": args.samples, "threads": args.threads})


def row(precision: str, share: str, result: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """What the selection itself says."""
    last = result["rounds"][-1]
    return {
        "precision": precision, "asked": float(share), "measured": result["measured"], "rounds": len(result["rounds"]),
        "solver_s": [one["solver_s"] for one in result["rounds"]], "gap": last["gap"], "macs_gone": result["reached"]["macs"],
        "model": result["latency_model"], "wall_s": wall_s,
    }  # fmt: skip


def again(args: argparse.Namespace, out: Path, precision: str, network: Any, result: dict[str, Any], on: On) -> dict[str, Any]:
    """The chosen engine against the dense one, by `toolchain bench`."""
    dense = dense_engine(args.model, out, data=args.data, imgsz=args.imgsz, precision=precision, on=on)
    chosen = cut(onnx.load(dense), network, result["rounds"][-1]["widths"], out / "chosen.onnx")
    found = verbs.bench({"dense": dense, "chosen": chosen}, out / "bench", on=on)
    speedup = found.engines["chosen"].speedup
    assert speedup is not None
    return {
        "benched": 1 / speedup.value,
        "benched_interval": [1 / (speedup.high or 1), 1 / (speedup.low or 1)],
        "valid": found.valid,
    }


if __name__ == "__main__":
    main()
