"""The thing that ships: an engine that has really run on its device, a program that runs it, and a manifest over everything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolchain.device.bundle_plan import OwnEngine, build_there
from toolchain.device.conversion import CONVERTING
from toolchain.device.engine_messages import BuildAnswer
from toolchain.device.infer import PROBE_S
from toolchain.device.lock import hold
from toolchain.device.manifest import (
    ALWAYS,
    EXPECTED,
    INFER,
    LABELS,
    MANIFEST,
    PROCESSING,
    SAMPLE,
    SOURCE,
    entries,
    verify,
    write_manifest,
)
from toolchain.device.messages import Message, Text, check
from toolchain.device.remote import connect
from toolchain.device.sample import sample_picture
from toolchain.device.session import AgentSession
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe
from toolchain.errors import ModelError, RunFolderError
from toolchain.imaging import PAD_VALUE
from toolchain.stage import tool_versions, write_bytes, write_json

__all__ = ["build", "verify"]

PAIR = ".openvino"  # see toolchain/export/openvino.py
MIN_SCORE, NMS_IOU, MAX_DETECTIONS = 0.25, 0.7, 300  # suppression as in evaluation; the score is the one detectors are used at
LEAST_SCORE = 0.001
SCORE_TOLERANCE = 0.2  # of the threshold: 0.05 at 0.25, more than FP16 or another CPU's INT8 kernels shift a score
MEANING = "(batch, 4 + classes, anchors): centre x, centre y, width, height in pixels, then scores 0..1"


class Detection(Message):
    """One object, in pixels of the picture."""

    class_id: Annotated[int, Field(alias="class", ge=0)]
    label: Text
    score: Annotated[float, Field(ge=0, le=1.02)]
    box: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=4, max_length=4)]


class TrialAnswer(Message):
    """What infer.py found on the sample picture, best score first, and how long its parts took."""

    detections: Annotated[list[Detection], Field(max_length=MAX_DETECTIONS)]
    times: dict[Text, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


def build(
    onnx: Path, out: Path, on: On = HERE, *, labels: Sequence[str], imgsz: int, precision: str, sample: Path | None = None,
    engine: Path | None = None, keep_plan: bool = True, timeout_s: float = 600.0,
) -> dict[str, Any]:  # fmt: skip
    """Load and run the graph on the host, try the bundle's own infer.py there, then put the whole folder in place in one step.

    Args:
        onnx: the graph, or OpenVINO's own pair in one file; ONNX Runtime and OpenVINO load it as it is, so it is engine and
            source in one file. TensorRT's plan is built of it on the host.
        out: the bundle's folder; an older bundle there is replaced.
        on: device, runtime, threads; its target is kept for the record.
        labels: class names, as many as the output has score rows.
        imgsz: side of the square input, pixels.
        precision: for the record.
        sample: picture for the trial on each device, kept in the bundle at the network's scale; without one, a drawn pattern.
        engine: what was made of the graph, where the runtime reads something else.
        keep_plan: fetch what the host builds of the graph, where the runtime builds; else every device builds its own when the
            bundle is installed.
        timeout_s: longest wait for loading, for the first inference or for the trial.

    Returns:
        the manifest.

    Raises:
        ModelError: the engine's input or output does not fit imgsz and labels, or a class name does not fit a line.
        RunFolderError: `out` holds something else than a bundle.
        DeviceError and its kinds.
    """
    if bad := [name for name in labels if not name.isprintable()]:
        raise ModelError("a class name does not fit on a line of text", got=repr(bad[0]))
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise RunFolderError("the folder holds something else than a bundle", got=str(out), fix="another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as parent:
        made = Path(parent) / "bundle"
        made.mkdir()
        source = SOURCE if onnx.suffix != PAIR else f"engine{PAIR}"
        shutil.copyfile(onnx, made / source)
        name = source if engine is None else f"engine{engine.suffix}"
        if engine is not None:
            shutil.copyfile(engine, made / name)
        with connect(on.host, python=on.python) as device, device.session() as session:
            hold(session, wait_s=on.wait_s)
            probe = check(Probe, session.request("probe", timeout_s=PROBE_S))
            fields: dict[str, Any] = {"imgsz": imgsz, **on.engine_fields()}
            own: OwnEngine | None = None
            if on.runtime in CONVERTING:
                own = build_there(session, made, fields, on.calibration, keep_plan=keep_plan)
                name = own.engine
            path = own.remote if own else session.put(made / name)
            ran = check(BuildAnswer, session.request("build", timeout_s=timeout_s, path=path, **fields))
            _fits(ran, imgsz, len(labels))
            _write_files(made, ran, labels, imgsz, sample)
            values = _values(name, source, on, precision, probe, ran, own)
            names = list(dict.fromkeys((name, source, *(own.files if own else ()))))
            before = {**values, "files": entries(made, [*names, *(name for name in ALWAYS if name != EXPECTED)])}
            write_manifest(made, before)
            write_json(made / EXPECTED, _expected(session, made, [*before["files"], MANIFEST], own, timeout_s))
        manifest = write_manifest(made, {**values, "files": entries(made, [*names, *ALWAYS])})
        _put_in_place(made, out, Path(parent) / "old")
    return manifest.to_json()


def _values(
    engine: str, source: str, on: On, precision: str, probe: Probe, ran: BuildAnswer, own: OwnEngine | None
) -> dict[str, Any]:  # fmt: skip
    return {
        "engine": engine, "source": source, "conversion": own.conversion if own else None, "target": on.target,
        "precision": precision,
        "runtime": {"name": on.runtime, "version": ran.runtime_version, "provider": ran.provider, "threads": on.threads,
                    "options": ran.options},
        "inputs": [tensor.model_dump() for tensor in ran.inputs],
        "outputs": [tensor.model_dump() for tensor in ran.outputs],
        "device": probe.model_dump(),
        "tried": {"load_ms": ran.load_ms, "first_inference_ms": ran.first_inference_ms, "input_shape": ran.ran_input_shape,
                  "output_shapes": ran.ran_output_shapes},
        "versions": tool_versions(),
    }  # fmt: skip


def _write_files(folder: Path, ran: BuildAnswer, labels: Sequence[str], imgsz: int, sample: Path | None) -> None:
    write_bytes(folder / LABELS, "".join(f"{name}\n" for name in labels).encode())
    write_bytes(folder / INFER, (resources.files("toolchain.device") / "bundle_files" / INFER).read_bytes())
    write_bytes(folder / SAMPLE, sample_picture(imgsz, sample))
    resize = "letterbox: scale the longer side to imgsz with bilinear interpolation, keep the aspect, centre on pad_value"
    write_json(folder / PROCESSING, {
        "input": {"resize": resize, "imgsz": imgsz, "pad_value": PAD_VALUE, "colour": "RGB", "layout": "NCHW",
                  "scale": "divide by 255 to 0..1", "type": ran.inputs[0].type, "batch": ran.ran_input_shape[0]},
        "output": {"meaning": MEANING, "min_score": MIN_SCORE, "iou": NMS_IOU, "max_detections": MAX_DETECTIONS},
    })  # fmt: skip


def _expected(
    session: AgentSession, folder: Path, names: Sequence[str], own: OwnEngine | None, timeout_s: float
) -> dict[str, Any]:  # fmt: skip
    """What infer.py finds there. Where nothing reaches the usual score the threshold goes down, so that there is something to
    compare."""
    there = own.there if own else {}
    files = {**{name: session.put(folder / name) for name in names if name not in there}, **there}
    answer = session.request("trial", timeout_s=timeout_s + 10, files=files, min_score=LEAST_SCORE, limit_s=timeout_s)
    found = check(TrialAnswer, answer).detections
    best = max((one.score for one in found), default=0.0)
    min_score = MIN_SCORE if best > MIN_SCORE * (1 + SCORE_TOLERANCE) or not found else best / 2
    kept = [one.model_dump(by_alias=True) for one in found if one.score > min_score]
    return {
        "picture": SAMPLE, "min_score": min_score, "score_tolerance": SCORE_TOLERANCE * min_score, "least_iou": NMS_IOU,
        "detections": kept,
    }  # fmt: skip


def _put_in_place(made: Path, out: Path, aside: Path) -> None:
    """Rename the new folder to its place; what was there goes only once that is done."""
    if not out.exists():
        made.rename(out)
        return
    out.rename(aside)
    try:
        made.rename(out)
    except BaseException:
        aside.rename(out)
        raise


def _fits(ran: BuildAnswer, imgsz: int, classes: int) -> None:
    if ran.ran_input_shape[1:] != [3, imgsz, imgsz]:
        raise ModelError("the engine's input is not the picture size asked for", got=f"{ran.ran_input_shape}, imgsz {imgsz}")
    shape = ran.ran_output_shapes[0] if ran.ran_output_shapes else []
    if len(shape) != 3 or shape[1] != 4 + classes:
        expected = f"(batch, {4 + classes}, anchors) for {classes} classes"
        raise ModelError("the engine's first output does not fit the class names", got=f"{shape}, expected {expected}")
