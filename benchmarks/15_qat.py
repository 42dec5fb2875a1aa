"""What QAT wins back, by seeds, and how much of that is the rounding and how much only more training.

    python benchmarks/15_qat.py --model best.pt --data data.yaml --imgsz 320 --recipe harsh.toml --out runs/qat

Rows, all judged by the engines' own outputs: float; INT8 by calibration; INT8 by QAT; and the control: the float graph trained
for the same epochs in the same way without rounding, then calibrated by the same recipe. QAT runs where the gate is missed, so
give a recipe or a network that misses it, such as a percentile of 99. Finished seeds are kept in --out, and a second call goes
on; trainings go on by themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import save

from toolchain import requests, verbs
from toolchain.config import Int8Section, QatSection
from toolchain.device.settings import On
from toolchain.errors import AccuracyGateError
from toolchain.quantization.qat_graph import QatGraph, own_weights, with_weights
from toolchain.quantization.source import load_float
from toolchain.stage import file_sha256, read_json, write_bytes, write_json
from toolchain.yolo.dataset import load_dataset
from toolchain.yolo.graph_detector import GraphDetector, train_graph

PATIENT = On(wait_s=3600.0)
ASKED = ("imgsz", "split", "recipe", "epochs", "lr0", "device")  # what a row depends on beside the model and the data


def quantized(graph: Path, out: Path, args: argparse.Namespace, seed: int, qat: QatSection, max_drop: float) -> dict[str, Any]:
    """Report of the verb, of a refused model too."""
    out.mkdir(parents=True, exist_ok=True)
    section = Int8Section(recipe=args.recipe, max_drop=max_drop, qat=qat)
    try:
        return verbs.quantize(graph, out, data=args.data, imgsz=args.imgsz, int8=section, seed=seed, split=args.split, on=PATIENT)
    except AccuracyGateError:
        return dict(read_json(out / "refused.json"))


def trained_without_rounding(graph: Path, out: Path, args: argparse.Namespace, seed: int, qat: QatSection) -> Path:
    """The control's float graph."""
    out.mkdir(parents=True, exist_ok=True)
    dataset, model = load_dataset(args.data), own_weights(load_float(graph, args.imgsz))

    def detector() -> GraphDetector:
        body = QatGraph(model)
        return GraphDetector(body, strides=body.head.strides, bins=body.head.bins, names=dataset.names, imgsz=args.imgsz)

    tuned = train_graph(
        detector(), out, dataset=dataset, settings=requests.qat_settings(qat, seed), teacher=detector(), job={"model": "control"},
        title="Without rounding",
    )  # fmt: skip
    network: Any = tuned.network
    write_bytes(out / "model.onnx", with_weights(model, network.body).SerializeToString())
    return out / "model.onnx"


def row_of(graph: Path, place: Path, args: argparse.Namespace, seed: int, qat: QatSection) -> dict[str, Any]:
    """mAP50-95 of the four, and how well torch rounds as the engine does; QAT's is None where calibration lost nothing."""
    plain = quantized(graph, place / "calibrated", args, seed, QatSection(), 1.0)
    trained = quantized(graph, place / "qat", args, seed, qat, 0.0)["qat"]
    control = trained_without_rounding(graph, place / "control", args, seed, qat)
    again = quantized(control, place / "control-int8", args, seed, QatSection(), 1.0)
    return {
        "seed": seed, "float": plain["float"]["map50_95"], "calibrated": plain["int8"]["map50_95"],
        "qat": None if trained is None else trained["map50_95"], "control_float": again["float"]["map50_95"],
        "control_calibrated": again["int8"]["map50_95"], "agreement": None if trained is None else trained["agreement"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", default="qat")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--split", default="val")
    parser.add_argument("--recipe", help="default: the one for this processor")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr0", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    (args.out / "onnx").mkdir(parents=True, exist_ok=True)
    verbs.export(args.model, args.out / "onnx", data=args.data, imgsz=args.imgsz)
    graph, qat = args.out / "onnx" / "model.onnx", QatSection(epochs=args.epochs, lr0=args.lr0, device=args.device)
    rows = []
    asked = {"model": file_sha256(args.model), **{key: str(value) for key, value in vars(args).items() if key in ASKED}}
    for seed in range(args.seeds):
        kept = args.out / f"seed-{seed}" / "row.json"
        if not (kept.exists() and read_json(kept)["asked"] == asked):
            write_json(kept, {"asked": asked, "row": row_of(graph, kept.parent, args, seed, qat)})
        rows.append(read_json(kept)["row"])
        print(rows[-1], flush=True)
    if not args.dry:
        hidden = ("model", "data", "out", "dry")
        config = {key: str(value) for key, value in vars(args).items() if key not in hidden}
        save(args.name, {"rows": rows, "split": args.split, "model_sha256": file_sha256(args.model)}, config)


if __name__ == "__main__":
    main()
