"""What each way of choosing is worth: same measured latency, same fine-tuning, several seeds, mAP50-95 of the INT8 engine.

    python benchmarks/14_ladder.py plan  --model best.pt --data data.yaml --imgsz 256 --out runs/ladder     # a quiet machine
    python benchmarks/14_ladder.py train --model best.pt --data data.yaml --imgsz 256 --out runs/ladder     # hours; any machine
    python benchmarks/14_ladder.py show  --out runs/ladder

`plan` times engines and writes a folder for each row; `train` fine-tunes, quantizes and evaluates every row; both go on after a
stop. Latencies are shares of the dense INT8 engine at --imgsz. "dense" rows are the uncut network at a smaller picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from toolchain import verbs
from toolchain.config import Int8Section, SelectSection, TrainSection
from toolchain.device.probe import probe
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate
from toolchain.device.target import load_target
from toolchain.errors import BudgetError
from toolchain.pruning.prune import analyse
from toolchain.selection.budget import Budget
from toolchain.selection.store import folder_of
from toolchain.selection.timed import Timed
from toolchain.stage import Stages, read_json, write_json
from toolchain.verbs.selecting import dense_engine
from toolchain.yolo.checkpoint import load_model


@dataclass(frozen=True)
class Row:
    """One way to choose; `smaller` is how much smaller the picture is, in strides of 32."""

    strategy: str
    criterion: str = "fisher"
    smaller: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def at(name: str, smaller: int) -> str:
    """A row's name: `uniform, 3 steps smaller`."""
    return f"{name}, {smaller} steps smaller" if smaller else name


OTHERS = {"uniform": "fisher", "depth-aware": "fisher", "global": "l1", "lamp": "l2", "flops": "fisher", "table": "fisher"}
ROWS = {
    at("dense", n): Row("dense", smaller=n) for n in range(1, 7)
} | {
    at(name, n): Row(name, criterion, n) for n in (0, 2, 3, 4) for name, criterion in OTHERS.items()
} | {
    at("latency", n): Row("latency", smaller=n) for n in range(5)
} | {
    at(f"{name}, what remains", n): Row(name, smaller=n, more={"value": "remaining"})
    for n in range(5) for name in ("latency", "table")
} | {
    at(f"{name}, no depth", n): Row(name, smaller=n, more={"depth": False}) for n in (0, 2, 3) for name in ("latency", "table")
} | {
    at(f"{name}, what remains, no depth", n): Row(name, smaller=n, more={"value": "remaining", "depth": False})
    for n in (0, 2, 3) for name in ("latency", "table")
}  # fmt: skip


def plan(args: argparse.Namespace) -> None:
    on = On()
    uncut = uncut_shares(args, on)
    for share in args.shares:
        for name, row in rows(args):
            folder = folder_for(args.out, share, name)
            if not (folder / "row.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                found = one_plan(args, on, folder, row, share, uncut)
                write_json(folder / "row.json", {"name": name, "share": share, **found})
            print(share, name, read_json(folder / "row.json"), flush=True)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name, row in ROWS.items():
        if (not args.rows or name in args.rows) and args.imgsz - 32 * row.smaller >= 32:
            yield name, row


def uncut_shares(args: argparse.Namespace, on: On) -> dict[int, float]:
    """Picture size -> latency of the uncut INT8 engine over that at --imgsz, in turns."""
    network = analyse(load_model(args.model), args.imgsz)[1]
    engines = {}
    for smaller in sorted({row.smaller for _, row in rows(args)} | {0}):
        size = args.imgsz - 32 * smaller
        engines[size] = dense_engine(args.model, args.out, data=args.data, imgsz=size, precision="int8", on=on)
    store = folder_of(network, args.imgsz, "int8", probe(), on)
    timed = Timed(network, engines[args.imgsz], store, on)
    found = timed.engines([Candidate(f"uncut {size}", lambda size=size: engines[size]) for size in engines])  # type: ignore[misc]
    return {size: timing.ratio for size, timing in zip(engines, found, strict=True)}


def one_plan(args: argparse.Namespace, on: On, folder: Path, row: Row, share: float, uncut: dict[int, float]) -> dict[str, Any]:
    size = args.imgsz - 32 * row.smaller
    if row.strategy == "dense":
        largest = max(s for s, latency in uncut.items() if latency <= 1.02 * share)
        fits = size in (largest, largest + 32)  # the largest picture within the budget, and the first one over it
        return {"imgsz": size, "latency": uncut[size], "model": str(args.model), "why_not": None, "fits": fits}
    within = share / uncut[size]
    if within >= 1:
        return {"imgsz": size, "why_not": "the uncut network is already within the budget"}
    more = {"value": "fisher", **row.more}
    section = SelectSection(
        strategy=row.strategy, criterion=row.criterion, samples=args.samples, check=0, rounds=6, **more
    )  # fmt: skip
    try:
        result = verbs.select(
            [args.model], folder, [Budget("latency", within, True)], data=args.data, sizes=[size], on=on,
            align=load_target("host-cpu").channel_alignment, section=section,
        )  # fmt: skip
    except BudgetError as error:
        return {"imgsz": size, "why_not": str(error)}
    return {
        "imgsz": size, "latency": result["measured"] * uncut[size], "model": str(folder / "pruned.pt"), "why_not": None,
        "macs": result["reached"]["macs"], "params": result["reached"]["params"], "rounds": len(result["rounds"]),
    }  # fmt: skip


def train(args: argparse.Namespace) -> None:
    on = On()
    for seed in args.seeds:
        for share in args.shares:
            for name, row in rows(args):
                folder = folder_for(args.out, share, name)
                about = read_json(folder / "row.json") if (folder / "row.json").exists() else {"why_not": "not planned"}
                if about["why_not"] is None and (row.strategy != "dense" or about["fits"]):
                    print(share, name, seed, one_training(args, on, folder, about, seed), flush=True)


def one_training(args: argparse.Namespace, on: On, folder: Path, about: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fine-tune, export, quantize, evaluate: mAP50-95 of the network and of its INT8 engine."""
    size, model, stages = about["imgsz"], Path(about["model"]), Stages(folder / f"seed-{seed}")
    section = TrainSection(epochs=args.epochs)
    tuned = stages.run(
        "tune", lambda out: verbs.finetune(model, out, data=args.data, imgsz=size, train=section, seed=seed),
        inputs={"model": model}, params={"epochs": args.epochs, "imgsz": size, "seed": seed},
    )  # fmt: skip
    exported = stages.run(
        "export", lambda out: verbs.export(tuned / "tuned.pt", out, data=args.data, imgsz=size),
        inputs={"model": tuned / "tuned.pt"}, params={"imgsz": size},
    )  # fmt: skip

    def judge(out: Path) -> dict[str, Any]:
        lax = Int8Section(max_drop=1.0)  # a row that loses much in INT8 is to be seen, not refused
        report = verbs.quantize(exported / "model.onnx", out, data=args.data, imgsz=size, int8=lax, split="val", on=on)
        return {key: report[key]["map50_95"] for key in ("float", "int8")}

    return stages.run("judge", judge, inputs={"model": exported / "model.onnx"}, params={"imgsz": size}).result


def show(args: argparse.Namespace) -> None:
    table = []
    for path in sorted(args.out.glob("*/*/row.json")):
        about = {key: value for key, value in read_json(path).items() if key != "model"}  # a path of whoever ran it
        judged = {
            p.parent.parent.name: json.loads(p.read_text())["result"] for p in sorted(path.parent.glob("seed-*/judge/stage.json"))
        }
        maps = [one["int8"] for one in judged.values()]
        table.append({**about, "seeds": judged, "map50_95": float(np.mean(maps)) if maps else None,
                      "spread": float(np.ptp(maps)) if maps else None})  # fmt: skip
    for row in sorted(table, key=lambda r: (-r["share"], -(r["map50_95"] or 0))):
        head = f"{row['share']:.2f}  {row['name']:<28} {row['imgsz']} px "
        if row["map50_95"] is not None:
            seeds = ", ".join(f"{one['int8']:.3f}" for one in row["seeds"].values())
            print(f"{head} {row['latency']:.3f}  {row['map50_95']:.4f}  ({seeds})")
        else:
            print(f"{head} {row.get('latency')} {row['why_not'] or 'not trained'}")
    save("ladder", {"rows": table}, {"imgsz": args.imgsz, "epochs": args.epochs, "samples": args.samples})


def folder_for(out: Path, share: float, name: str) -> Path:
    return out / f"{share:g}" / name.replace(",", "").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["plan", "train", "show"])
    for name in ("model", "data"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.35, 0.5])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", help="some of the rows, by name")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    {"plan": plan, "train": train, "show": show}[args.step](args)


if __name__ == "__main__":
    main()
