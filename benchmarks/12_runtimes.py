"""One detector in every runtime this machine has, in turns: float and INT8, with mAP, bytes, and time from file to first boxes.

    python benchmarks/12_runtimes.py --model best.pt --data data.yaml --imgsz 320 --threads 2 --out runs/runtimes

INT8 graphs are placed by the rules of ONNX Runtime, of OpenVINO and of ncnn, and each runs in every runtime that can read it, so
the table also says what the wrong placement costs. Start-up (loading with compilation, then the first inference) is the median of
processes of their own, one after the other; the operating system has the file in memory by then.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from common import save

from toolchain import verbs
from toolchain.config import Int8Section
from toolchain.device.pace import pace_of
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.verbs.runtimes import spread


def start_up(engine: Path, on: On, times: int) -> dict[str, float]:
    """Medians over fresh processes, ms; importing the runtime is no part of it."""
    found = []
    for _ in range(times):
        with connect(on.host, python=on.python) as device, device.session() as session:
            answer = session.request("build", timeout_s=600.0, path=session.put(engine), **on.engine_fields())
            found.append((answer["load_ms"], answer["first_inference_ms"]))
    return {"load_ms": median(row[0] for row in found), "first_inference_ms": median(row[1] for row in found)}


def convolutions(engine: Path, on: On) -> str | None:
    """In which precision a runtime says it runs them; None where it does not say."""
    with connect(on.host, python=on.python) as device, device.session() as session:
        answer = session.request("build", timeout_s=600.0, path=session.put(engine), **on.engine_fields())
    said = answer["options"].get("convolutions")
    return None if said is None else str(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", default="runtimes")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--split", default="val")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", default="search")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    on = On(threads=args.threads)
    engines = graphs(args, on)
    every = spread(engines, ["all"], on, args.out / "bench", imgsz=args.imgsz)
    timed = verbs.bench(
        engines, args.out / "bench", on=on, pace=pace_of(args.profile, rounds=args.rounds), accuracy=True, data=args.data,
        split=args.split, imgsz=args.imgsz, runtimes=["all"],
    )  # fmt: skip
    rows: dict[str, Any] = {}
    for label, engine in timed.engines.items():
        file, place = every.files[label], every.ons[label]
        speedup = engine.speedup and [engine.speedup.value, engine.speedup.low, engine.speedup.high]
        rows[label] = {
            "runtime": engine.runtime, "version": engine.runtime_version, "provider": engine.provider,
            "latency_ms": engine.p50_ms, "speedup": speedup,
            "map50_95": (engine.accuracy or {}).get("map50_95"), "size_bytes": engine.size_bytes,
            "rss_mb": engine.rss_mb, "convolutions": convolutions(file, place), **start_up(file, place, args.starts),
        }  # fmt: skip
        starts = f"load {rows[label]['load_ms']:.0f} + first {rows[label]['first_inference_ms']:.0f} ms"
        print(
            f"{label:28s} {rows[label]['latency_ms'] or float('nan'):8.3f} ms  mAP50-95 {rows[label]['map50_95']:.4f}  {starts}"
        )
    figures = {
        "rows": rows, "baseline": timed.baseline, "left_out": every.left_out, "valid": timed.valid, "reasons": timed.reasons,
        "control": timed.control and [timed.control.value, timed.control.low, timed.control.high],
    }  # fmt: skip
    print("valid" if timed.valid else f"not valid: {'; '.join(timed.reasons)}")
    if not args.dry:
        hidden = ("model", "data", "out", "dry")
        save(args.name, figures, {key: value for key, value in vars(args).items() if key not in hidden})


def graphs(args: argparse.Namespace, on: On) -> dict[str, Path]:
    """Float, and INT8 by the rules of each runtime."""
    folder = args.out / "float"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.onnx").exists():
        verbs.export(args.model, folder, data=args.data, imgsz=args.imgsz)
    found = {"float": folder / "model.onnx"}
    for label, runtime in (("int8", "onnxruntime"), ("int8-openvino", "openvino"), ("int8-ncnn", "ncnn")):
        out = args.out / label
        out.mkdir(parents=True, exist_ok=True)
        found[label] = out / "model.int8.onnx"
        if not found[label].exists():
            verbs.quantize(
                found["float"], out, data=args.data, imgsz=args.imgsz, split=args.split,
                on=replace(on, runtime=runtime, provider=""), int8=Int8Section(max_drop=1.0), work=args.out / "work",
            )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
