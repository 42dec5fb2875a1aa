"""The verb that says how accurate a network or an engine is."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.device.forms import for_runtime
from toolchain.device.infer import infer
from toolchain.device.manifest import engine_of
from toolchain.device.recover import recover
from toolchain.device.settings import HERE, On
from toolchain.errors import UsageError
from toolchain.stage import write_json

if TYPE_CHECKING:
    from toolchain.yolo.dataset import Dataset

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
    """mAP of a checkpoint (torch) or of an engine's own outputs (`.onnx`, `.xml` or bundle, run on the host); writes `NAME.json`.

    `prepared` is where the network's pictures are kept; default: in `out`.
    """
    from toolchain.pruning.prune import check_imgsz
    from toolchain.yolo.checkpoint import load_model
    from toolchain.yolo.dataset import load_dataset
    from toolchain.yolo.evaluate import evaluate_module

    if model.is_dir():
        model = engine_of(model)
    if model.suffix not in (".pt", ".onnx", ".ncnn", ".openvino", ".plan", ".xml"):
        raise UsageError("cannot evaluate this file", got=model, fix="a .pt, an .onnx, OpenVINO's model.xml or a bundle folder")
    out.mkdir(parents=True, exist_ok=True)
    if model.suffix == ".pt":
        loaded = load_model(model)
        check_imgsz(imgsz, loaded.stride)
        dataset = load_dataset(data, class_names=loaded.names)
        result = evaluate_module(loaded.module, dataset, split, imgsz, out).to_dict() | {"engine": None}
    else:
        dataset = load_dataset(data)
        result = engine_accuracy(model, out, dataset=dataset, split=split, imgsz=imgsz, on=on, name=name, prepared=prepared)
    write_json(out / f"{name}.json", result)
    return result


def engine_accuracy(
    engine: Path, out: Path, *, dataset: Dataset, split: str, imgsz: int, on: On, name: str, prepared: Path | None = None
) -> dict[str, Any]:
    """mAP of an engine's own outputs on the host; its predictions are kept in `out`."""
    from toolchain.yolo.evaluate import evaluate_file, prepare_split

    out.mkdir(parents=True, exist_ok=True)
    engine = for_runtime(engine, on, out)
    with _preparing:  # several devices wait for one preparation
        images, letterboxes = prepare_split(dataset, split, imgsz, prepared or out)
    predictions = out / f"{name}.npz"
    ran = recover(lambda: infer(engine, images, predictions, on), on)
    accuracy = evaluate_file(predictions, dataset, split, imgsz, letterboxes)
    return accuracy.to_dict() | {"engine": ran.to_json()}


def cpu_features(on: On) -> dict[str, Any]:
    """What Q/DQ placement must know: 8-bit dot products of the host's CPU, and the row of rules for runtime and architecture.

    A target of another architecture than the host's is what the graph is placed for.
    """
    from toolchain.device.probe import probe
    from toolchain.device.target import load_target

    found = probe(on.host, python=on.python)
    arch, flags = found["arch"], set(found["cpu_flags"] or [])
    target = load_target(on.target) if on.target else None
    if target is not None and arch not in target.arch:
        arch, flags = target.arch[0], set()
    vnni = bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"})
    arm = arch in ("aarch64", "arm64")
    onnxruntime = "onnxruntime-arm" if arm else "onnxruntime-x86"
    openvino = "openvino" if arm or "amx_int8" in flags else "openvino-unsigned"
    rules = {"onnxruntime": onnxruntime, "openvino": openvino}.get(on.runtime, on.runtime)
    return {"vnni": vnni, "rules": rules}


def judged_on(on: On) -> tuple[On, list[str]]:
    """Where an INT8 graph made for a runtime can be judged: by that runtime if the host has it, else by ONNX Runtime there.

    Returns:
        where, and a sentence for people where it is not the runtime itself.
    """
    from toolchain.device.probe import probe

    if on.runtime == "onnxruntime":
        return on, []
    found = probe(on.host, python=on.python)
    name = on.provider.split(":")[0]
    if name in (found["runtimes"].get(on.runtime) or {}).get("providers", ()):
        return on, []
    why = found["unreadable"].get(f"runtimes.{on.runtime}", f"no {name} there")
    text = f"made for {on.runtime}, judged by ONNX Runtime: {on.host} cannot run {on.runtime} ({str(why).splitlines()[0]})"
    return replace(on, runtime="onnxruntime", provider=""), [text]
