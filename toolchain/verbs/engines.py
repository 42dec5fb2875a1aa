"""Verbs on engines where they will live: build, bench, profile. A lost link is waited for, and the work goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress
from toolchain.device.bench import LATENCY_ALONE, Extras
from toolchain.device.bench import bench as bench_engines
from toolchain.device.bundle import build as build_bundle
from toolchain.device.conditions import AS_IT_IS, Conditions
from toolchain.device.end_to_end import Picture
from toolchain.device.engine_precision import in_precision, precision_told
from toolchain.device.forms import for_runtime
from toolchain.device.manifest import engine_of
from toolchain.device.pace import PACES, Pace
from toolchain.device.profile import profile as profile_engine
from toolchain.device.records import keep
from toolchain.device.recover import recover
from toolchain.device.results import BenchResult, with_accuracy
from toolchain.device.settings import HERE, On
from toolchain.errors import UsageError
from toolchain.stage import write_json
from toolchain.verbs.accuracy import evaluate
from toolchain.verbs.runtimes import spread


def build(
    model: Path, out: Path, *, imgsz: int, on: On = HERE, precision: str | None = None, sample: Path | None = None,
    keep_plan: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """ONNX, or OpenVINO's own pair -> a bundle whose engine really ran on the host.

    Args:
        precision: that it is to run in, see `toolchain.device.engine_precision`; None: as graph and provider say.
        sample: the picture it is tried on there and wherever it goes.
        keep_plan: TensorRT's plan comes into the bundle; else it stays on the host, and every device builds its own.

    Raises:
        UsageError: it would run in another precision than was asked for.
    """
    from toolchain.export import openvino
    from toolchain.export.metadata import class_names

    pair = model.suffix == openvino.XML
    labels = openvino.class_names(model) if pair else class_names(model)
    on = on if precision is None else in_precision(on, precision)
    told = precision_told(model, on)
    if precision not in (None, told):
        fix = "toolchain quantize makes INT8 graphs" if precision == "int8" else "leave --precision out"
        raise UsageError("the engine would run in another precision", got=f"{model} in {told}, asked {precision}", fix=fix)
    asked: dict[str, Any] = {"labels": labels, "imgsz": imgsz, "precision": told, "sample": sample, "keep_plan": keep_plan}
    with tempfile.TemporaryDirectory(prefix="edge-engine-") as folder:
        made = for_runtime(model, on, Path(folder))
        if pair:
            model = made
        elif made != model:
            asked["engine"] = made
        return recover(lambda: build_bundle(model, out, on, **asked), on)


def engine_files(engines: Mapping[str, Path]) -> dict[str, Path]:
    """Label -> engine; a bundle folder stands for its engine, after its hashes were checked."""
    for path in engines.values():
        if not path.exists():
            raise UsageError("an engine's file does not exist", got=path, fix="`toolchain export` or `toolchain build` makes one")
    return {label: engine_of(path) if path.is_dir() else path for label, path in engines.items()}


def bench(
    engines: Mapping[str, Path], out: Path, *, on: On = HERE, pace: Pace = PACES["quick"], extras: Extras = LATENCY_ALONE,
    conditions: Conditions = AS_IT_IS, accuracy: bool = False, data: Path | None = None, split: str = "val",
    imgsz: int | None = None, command: str = "", prepared: Path | None = None, runtimes: Sequence[str] = (),
) -> BenchResult:  # fmt: skip
    """Latency of several engines in turns, and what else is asked for; the first is the baseline. A bundle stands for its engine.

    Writes what device.bench writes, and records.jsonl.

    Args:
        accuracy: of each engine's own outputs on `split` of `data`, on the same device.
        data: whole detections are timed on the split's first picture.
        prepared: where pictures prepared for accuracy are kept; default: in `out`.
        runtimes: every engine in each of these, as LABEL.RUNTIME; "all": what the device has. None: that of `on`.
    """
    several = spread(engine_files(engines), runtimes or [on.runtime], on, out, imgsz=imgsz)
    files = several.files
    if data is not None and pace.end_to_end and extras.picture.file is None:
        extras = replace(extras, picture=Picture(first_picture(data, split, out)))
    asked: dict[str, Any] = {"extras": extras, "conditions": conditions, "imgsz": imgsz, "command": command}
    if runtimes:
        asked["ons"] = several.ons
    result = recover(lambda: bench_engines(files, out, on, pace, **asked), on)
    if several.left_out:
        result = replace(result, flags=(*result.flags, *several.left_out))
        write_json(out / "bench.json", result.to_json())
    if accuracy and data is not None:
        found = {}
        for label, path in files.items():
            asked = {"imgsz": result.engines[label].input_shape[-1], "name": label, "prepared": prepared}
            found[label] = evaluate(path, out / "accuracy", data=data, split=split, on=several.ons[label], **asked)
        result = with_accuracy(result, found)
        write_json(out / "bench.json", result.to_json())
    keep(result.to_json(), out)
    return result


def first_picture(data: Path, split: str, out: Path) -> Path:
    """The split's first picture as the device reads it: (height, width, 3) uint8 RGB in `out`/picture.npy."""
    from toolchain.imaging import read_image
    from toolchain.yolo.dataset import load_dataset

    out.mkdir(parents=True, exist_ok=True)
    path = out / "picture.npy"
    np.save(path, np.ascontiguousarray(read_image(load_dataset(data).images(split)[0])[..., ::-1]))
    return path


def profile(
    engines: Mapping[str, Path], out: Path, *, on: On = HERE, imgsz: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Time of every node of each engine, one engine after the other; writes `profile.json`."""
    result = {}
    with progress.task(f"Profiling on {on.host}", total=len(engines), unit="engines") as task:
        for label, path in engine_files(engines).items():
            nodes = recover(lambda path=path: profile_engine(path, on, imgsz=imgsz), on)  # type: ignore[misc]
            result[label] = [node.to_json() for node in nodes]
            task.advance(note=label)
    write_json(out / "profile.json", result)
    return result
