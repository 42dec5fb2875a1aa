"""Verbs that need an engine's accuracy: evaluate, quantize."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.config import Int8Section
from toolchain.device.infer import infer
from toolchain.device.manifest import engine_of
from toolchain.device.recover import recover
from toolchain.device.settings import HERE, On
from toolchain.errors import AccuracyGateError, UsageError
from toolchain.pruning.prune import check_imgsz
from toolchain.stage import write_json

_preparing = threading.Lock()


def evaluate(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    split: str = "val",
    on: On = HERE,
    name: str = "accuracy",
    prepared: Path | None = None,
) -> dict[str, Any]:
    """mAP of a checkpoint (torch) or of an engine's own outputs (`.onnx` or bundle, run on the host); writes `NAME.json`.

    `prepared` is where the network's pictures are kept; default: in `out`.
    """
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.evaluate import evaluate_file, evaluate_module, prepare_split

    if model.is_dir():
        model = engine_of(model)
    if model.suffix not in (".pt", ".onnx"):
        raise UsageError("cannot evaluate this file", got=model, fix="a .pt, an .onnx or a bundle folder")
    out.mkdir(parents=True, exist_ok=True)
    if model.suffix == ".pt":
        loaded = load_model(model)
        check_imgsz(imgsz, loaded.stride)
        dataset = load_dataset(data, class_names=loaded.names)
        result = evaluate_module(loaded.module, dataset, split, imgsz, out).to_dict() | {"engine": None}
    else:
        dataset = load_dataset(data)
        with _preparing:  # several devices wait for one preparation
            images, letterboxes = prepare_split(dataset, split, imgsz, prepared or out)
        predictions = out / f"{name}.npz"
        ran = recover(lambda: infer(model, images, predictions, on), on)
        accuracy = evaluate_file(predictions, dataset, split, imgsz, letterboxes)
        result = accuracy.to_dict() | {"engine": ran.to_json()}
    write_json(out / f"{name}.json", result)
    return result


def quantize(
    model: Path,
    out: Path,
    *,
    data: Path,
    imgsz: int,
    int8: Int8Section | None = None,
    split: str = "val",
    on: On = HERE,
    seed: int = 0,
    work: Path | None = None,
) -> dict[str, Any]:
    """Float ONNX -> `model.int8.onnx`, calibrated on training pictures and judged by the engines' own outputs on `split`.

    Raises:
        AccuracyGateError: INT8 lost more than `max_drop`; `refused.json` in `out` says what was measured.
    """
    from toolchain.quantization.gate import check_gate
    from toolchain.quantization.quantize import quantize as place
    from toolchain.yolo.dataset import load_dataset

    section = int8 or Int8Section()
    dataset = load_dataset(data)
    features = cpu_features(on)
    report = place(
        model,
        dataset.images("train"),
        out,
        imgsz=imgsz,
        recipe=section.recipe,
        vnni=features["vnni"],
        rules=features["rules"],
        keep_float=section.keep_float,
        seed=seed,
    )
    folder = work or out
    maps = {
        name: evaluate(engine, folder, data=data, imgsz=imgsz, split=split, on=on, name=name)
        for name, engine in {"float": model, "int8": out / "model.int8.onnx"}.items()
    }
    report |= {"float": maps["float"], "int8": maps["int8"], "max_drop": section.max_drop}
    try:
        report["gate"] = check_gate(
            maps["float"]["map50_95"],
            maps["int8"]["map50_95"],
            section.max_drop,
            tried=[section.recipe],
            images=report["images"],
            costs=_costs(model, out / "model.int8.onnx", dataset.images("train"), imgsz, maps, section.max_drop),
        )
    except AccuracyGateError:
        write_json(out / "refused.json", report)
        (out / "model.int8.onnx").rename(out / "refused.int8.onnx")
        raise
    return report


def _costs(model: Path, int8: Path, images: Sequence[Path], imgsz: int, maps: Mapping[str, Any], max_drop: float) -> Any:
    """Noise of every layer, only when the gate is about to refuse."""
    if maps["float"]["map50_95"] - maps["int8"]["map50_95"] <= max_drop:
        return ()
    import onnx

    from toolchain.imaging import float_batches
    from toolchain.quantization.costs import layer_costs

    return layer_costs(onnx.load(model), onnx.load(int8), float_batches(images[:8], imgsz))


def cpu_features(on: On) -> dict[str, Any]:
    """What Q/DQ placement must know of the host's CPU: 8-bit dot products, and the rule table of its architecture."""
    from toolchain.device.probe import probe

    found = probe(on.host, python=on.python)
    flags = set(found["cpu_flags"] or [])
    vnni = bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"})
    return {"vnni": vnni, "rules": "onnxruntime-arm" if found["arch"] in ("aarch64", "arm64") else "onnxruntime-x86"}
