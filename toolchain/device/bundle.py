"""The thing that ships: an engine that has really run on its device, with a manifest that names every file by hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from toolchain.device.engine_messages import BuildAnswer
from toolchain.device.infer import PROBE_S
from toolchain.device.messages import check
from toolchain.device.remote import connect
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe
from toolchain.errors import ModelError, RunFolderError
from toolchain.stage import file_sha256, read_json, tool_versions, write_json

FORMAT = 1
ENGINE = "engine.onnx"
MANIFEST = "manifest.json"


def _preprocessing(imgsz: int) -> dict[str, Any]:
    return {
        "resize": "letterbox: scale the longer side to imgsz with bilinear interpolation, keep the aspect, centre",
        "imgsz": imgsz, "pad_value": 114, "colour": "RGB", "layout": "NCHW", "scale": "divide by 255 to 0..1",
    }  # fmt: skip


def build(
    onnx: Path, out: Path, on: On = HERE, *, labels: list[str], imgsz: int, precision: str, timeout_s: float = 600.0
) -> dict[str, Any]:
    """Copy the graph to out/engine.onnx, load and run it on the host, write out/manifest.json.

    Args:
        onnx: the graph.
        on: device, runtime, threads; its target is kept for the record.
        labels: class names, as many as the output has score rows.
        imgsz: side of the square input, pixels.
        precision: fp32, fp16 or int8, for the record.
        timeout_s: longest wait for loading or for the first inference.

    Returns:
        the manifest.

    Raises:
        ModelError: the engine's input or output does not fit imgsz and labels.
        DeviceError and its kinds.
    """
    out.mkdir(parents=True, exist_ok=True)
    engine = out / ENGINE
    shutil.copyfile(onnx, engine)
    with connect(on.host, python=on.python) as device, device.session() as session:
        probe = check(Probe, session.request("probe", timeout_s=PROBE_S))
        fields: dict[str, Any] = {"path": session.put(engine), "imgsz": imgsz, **on.engine_fields()}
        ran = check(BuildAnswer, session.request("build", timeout_s=timeout_s, **fields))
    _fits(ran, imgsz, len(labels))
    manifest = {
        "format": FORMAT,
        "files": {ENGINE: {"sha256": file_sha256(engine), "size_bytes": engine.stat().st_size}},
        "target": on.target, "precision": precision, "labels": list(labels), "preprocessing": _preprocessing(imgsz),
        "runtime": {"name": on.runtime, "version": ran.runtime_version, "provider": ran.provider, "options": ran.options},
        "inputs": [tensor.model_dump() for tensor in ran.inputs],
        "outputs": [tensor.model_dump() for tensor in ran.outputs],
        "output_meaning": "(batch, 4 + classes, anchors): centre x, centre y, width, height in pixels, then scores 0..1",
        "device": probe.model_dump(),
        "tried": {"load_ms": ran.load_ms, "first_inference_ms": ran.first_inference_ms, "input_shape": ran.ran_input_shape,
                  "output_shapes": ran.ran_output_shapes},
        "versions": tool_versions(),
    }  # fmt: skip
    write_json(out / MANIFEST, manifest)
    return manifest


def _fits(ran: BuildAnswer, imgsz: int, classes: int) -> None:
    if ran.ran_input_shape[1:] != [3, imgsz, imgsz]:
        raise ModelError("the engine's input is not the picture size asked for", got=f"{ran.ran_input_shape}, imgsz {imgsz}")
    shape = ran.ran_output_shapes[0] if ran.ran_output_shapes else []
    if len(shape) != 3 or shape[1] != 4 + classes:
        expected = f"(batch, {4 + classes}, anchors) for {classes} classes"
        raise ModelError("the engine's first output does not fit the class names", got=f"{shape}, expected {expected}")


def verify(bundle: Path) -> dict[str, Any]:
    """Check every file of a bundle against its manifest.

    Returns:
        the manifest.

    Raises:
        RunFolderError: no manifest, another format, a file missing or changed.
    """
    manifest = read_json(bundle / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise RunFolderError("not a bundle of this version", got=str(bundle / MANIFEST), fix="build it again")
    for name, expected in manifest["files"].items():
        path = bundle / name
        if Path(name).name != name or not isinstance(expected, dict):
            raise RunFolderError("the manifest names a file outside the bundle", got=repr(name))
        if not path.is_file():
            raise RunFolderError("a file of the bundle is missing", got=str(path), fix="copy the bundle again, or build it again")
        if (got := file_sha256(path)) != expected.get("sha256"):
            fix = "copy the bundle again, or build it again"
            raise RunFolderError("a file of the bundle was changed", got=f"{path}: sha256 {got}", fix=fix)
    return manifest
