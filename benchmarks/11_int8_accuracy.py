"""INT8 against float and against ONNX Runtime's own `quantize_static`: mAP of the engines' outputs, speed in turns.

    python benchmarks/11_int8_accuracy.py --model best.pt --data data.yaml --imgsz 320 --out runs/int8-accuracy

`quantize_static` gets the same calibration pictures, once with its defaults and once as it can be for this graph: scales per
channel, unsigned activations, the same nodes left in float, narrow weights where the processor lacks VNNI. A pruned .pt
is a model too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import save

from toolchain import verbs
from toolchain.config import Int8Section
from toolchain.device.pace import pace_of
from toolchain.device.settings import On
from toolchain.errors import DataError
from toolchain.imaging import float_batches
from toolchain.stage import read_json
from toolchain.verbs.accuracy import cpu_features

OURS, STATIC, STATIC_BEST = "ours-int8", "quantize-static-default", "quantize-static-same-head"


def quantize_static(graph: Path, out: Path, images: list[Path], imgsz: int, **options: Any) -> Path:
    """ONNX Runtime's own."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization import quantize_static as static

    name = onnx.load(graph).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = float_batches(images, imgsz)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    static(graph, out, Reader(), **options)
    return out


def best_options(kept_float: list[str], vnni: bool) -> dict[str, Any]:
    """What ONNX Runtime's documentation advises for x86, and the nodes that ours leaves in float."""
    from onnxruntime.quantization import QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": not vnni, "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8, "nodes_to_exclude": kept_float,
    }  # fmt: skip


def by_operator(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """Fastest run of every kernel, added up by kind, ms."""
    found: dict[str, float] = {}
    for node in nodes:
        found[node["op"]] = found.get(node["op"], 0.0) + node["min_ms"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def accuracy(engine: Path, label: str, args: argparse.Namespace, on: On) -> dict[str, Any]:
    """mAP; for a rival whose outputs are not even scores, the reason why there is none."""
    try:
        return verbs.evaluate(engine, args.out / "work", data=args.data, imgsz=args.imgsz, split=args.split, on=on, name=label)
    except DataError as error:
        if label not in (STATIC, STATIC_BEST):
            raise
        return {"map50_95": None, "map50": None, "why": str(error)}


def shown(value: float | None) -> str:
    """Four digits, or that there is no number."""
    return "  none" if value is None else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", default="int8-accuracy")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--split", default="val")
    parser.add_argument("--recipe", help="default: the one for this processor; auto tries them all")
    parser.add_argument("--mixed", action="store_true", help="leave layers in float where the drop is above --max-drop")
    parser.add_argument("--max-drop", type=float, default=1.0, help="1: nothing is refused, the figure tells")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    on = On(threads=args.threads)
    folders = {name: args.out / name for name in ("onnx", "int8", "static")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    verbs.export(args.model, folders["onnx"], data=args.data, imgsz=args.imgsz)
    graph = folders["onnx"] / "model.onnx"
    section = Int8Section(recipe=args.recipe, max_drop=args.max_drop, mixed=args.mixed)
    report = verbs.quantize(
        graph, folders["int8"], data=args.data, imgsz=args.imgsz, int8=section, split=args.split, on=on, seed=args.seed,
        work=args.out / "work",
    )  # fmt: skip
    record = read_json(folders["int8"] / "calibration.json")
    images = [Path(image["file"]) for image in record["images"]]
    best = best_options(list(record["kept_float"]), cpu_features(on)["vnni"])
    engines = {
        "float": graph,
        OURS: folders["int8"] / "model.int8.onnx",
        STATIC: quantize_static(graph, folders["static"] / "default.onnx", images, args.imgsz),
        STATIC_BEST: quantize_static(graph, folders["static"] / "same-head.onnx", images, args.imgsz, **best),
    }
    maps = {label: accuracy(path, label, args, on) for label, path in engines.items()}
    timed = verbs.bench(engines, args.out / "bench", on=on, pace=pace_of("quick", rounds=args.rounds), imgsz=args.imgsz)
    rival = verbs.bench(
        {STATIC_BEST: engines[STATIC_BEST], OURS: engines[OURS]}, args.out / "bench-rival", on=on,
        pace=pace_of("quick", rounds=args.rounds), imgsz=args.imgsz,
    ).engines[OURS].speedup  # fmt: skip
    kernels = verbs.profile(engines, args.out / "bench", on=on, imgsz=args.imgsz)
    rows = {
        label: {
            "map50_95": maps[label]["map50_95"], "map50": maps[label]["map50"],
            "why": maps[label].get("why"), "latency_ms": engine.p50_ms,
            "speedup": None if engine.speedup is None else [engine.speedup.value, engine.speedup.low, engine.speedup.high],
            "size_bytes": engine.size_bytes, "load_ms": engine.load_ms, "first_inference_ms": engine.first_inference_ms,
            "kernels_ms": by_operator(kernels[label]),
        }
        for label, engine in timed.engines.items()
    }  # fmt: skip
    figures = {
        "rows": rows, "recipe": report["recipe"], "trials": report["trials"], "mixed": report["mixed"],
        "calibration_images": report["images"], "warnings": report["warnings"], "split": args.split,
        "images": maps["float"]["images"], "valid": timed.valid, "reasons": timed.reasons,
        "faster_than_quantize_static_same_head": None if rival is None else [rival.value, rival.low, rival.high],
    }  # fmt: skip
    for label, row in rows.items():
        row["drop"] = None if row["map50_95"] is None else rows["float"]["map50_95"] - row["map50_95"]
        print(f"{label:28s} mAP50-95 {shown(row['map50_95'])}  drop {shown(row['drop'])}  {row['latency_ms']} ms")
    if not args.dry:
        hidden = ("model", "data", "out", "dry")
        save(args.name, figures, {key: str(value) for key, value in vars(args).items() if key not in hidden})


if __name__ == "__main__":
    main()
