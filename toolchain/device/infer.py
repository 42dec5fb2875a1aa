"""Run an engine over a prepared set of pictures where it will live, and bring the candidate boxes back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress
from toolchain.device.conversion import place
from toolchain.device.engine_messages import InferAnswer
from toolchain.device.lock import hold
from toolchain.device.messages import Progress, check
from toolchain.device.parts import Parts
from toolchain.device.remote import connect
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe
from toolchain.errors import DataError, ProtocolError
from toolchain.stage import file_sha256

PROBE_S = 60.0


@dataclass(frozen=True)
class InferResult:
    """What ran where.

    Attributes:
        device: the probe of the machine.
        versions: of the runtime and Python there.
        seconds: time in the engine alone, on the device's clock.
    """

    device: dict[str, Any]
    versions: dict[str, str | None]
    provider: str
    seconds: float
    images: int
    engine_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def _count(images_npy: Path) -> int:
    try:
        images = np.load(images_npy, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError("not a prepared set of pictures", got=f"{images_npy}: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise DataError("pictures must be (n, 3, size, size) uint8", got=f"{images_npy}: {images.shape} {images.dtype}")
    return len(images)


def infer(engine: Path, images_npy: Path, out_npz: Path, on: On = HERE, *, timeout_s: float = 600.0) -> InferResult:
    """Write the engine's raw detections as a `Predictions` file.

    The set goes through in parts, each kept beside `out_npz` when it has come back, so that a second call goes on.

    Args:
        engine: model file whose first output is (batch, 4 + classes, anchors), decoded.
        images_npy: (n, 3, size, size) uint8 RGB, as imaging.prepare_set writes it.
        out_npz: the predictions.
        on: device, runtime, threads.
        timeout_s: longest silence of the device.

    Raises:
        DeviceError and its kinds, DataError: the pictures or the answer are not what they must be.
    """
    count = _count(images_npy)
    hashes = {"engine": file_sha256(engine), "images": file_sha256(images_npy)}
    with connect(on.host, python=on.python) as device, device.session() as session:
        hold(session, wait_s=on.wait_s)
        probe = check(Probe, session.request("probe", timeout_s=PROBE_S))
        about = {"host": probe.hostname, "arch": probe.arch, "cpu": probe.cpu_model, "runtimes": probe.model_dump()["runtimes"]}
        parts = Parts.open(out_npz, {**hashes, **on.engine_fields(), "device": about})
        side = int(np.load(images_npy, mmap_mode="r").shape[-1])
        there = place(session, engine, {**on.engine_fields(), "imgsz": side}, on.calibration)
        remote = {"path": there, "images": session.put(images_npy)}
        with progress.task(f"Inference on {device.name}", total=count, unit="images") as task:
            task.advance(parts.images)

            def show(name: str, data: object) -> None:
                if name == "progress":
                    task.advance(min(check(Progress, data).done, count) - task.done)

            while parts.images < count:
                start = parts.images
                answer = parts.pending()
                if answer is None:
                    fields = {**remote, **on.engine_fields(), "start": start, "stop": min(count, start + parts.next_size())}
                    answer = check(InferAnswer, session.request("infer", timeout_s=timeout_s, on_event=show, **fields))
                    if answer.images != fields["stop"] - start:
                        got = f"{answer.images}, sent {fields['stop'] - start}"
                        raise ProtocolError("the device answered for another number of pictures", got=got)
                    parts.expect(answer)
                found = session.get(answer.path, parts.file(answer), size=answer.size, sha256=answer.sha256)
                if found:
                    parts.add(answer)
                else:
                    parts.forget()
                task.advance(parts.images - task.done)
    predictions, answers = parts.finish()
    versions = {"python": probe.python, "numpy": probe.numpy, on.runtime: answers[0].runtime_version}
    seconds = sum(answer.seconds for answer in answers)
    return InferResult(probe.model_dump(), versions, answers[0].provider, seconds, len(predictions.counts), hashes["engine"])
