"""TensorRT's own program beside the agent's loop: the same plans, timed by trtexec where the device has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolchain import progress
from toolchain.device.conversion import place
from toolchain.device.machine import Device
from toolchain.device.messages import Message, Positive, Text, check
from toolchain.errors import ConnectionLostError, DeviceBusyError, DeviceError, RemoteTimeoutError
from toolchain.measurement.stats import summarize
from toolchain.stage import write_json

RUNTIME = "tensorrt"
SECONDS, SECONDS_OF_A_REPORT = 3, 10
LOAD_S = 600.0
AGREE = 0.05  # of medians of one plan's time on the GPU, by trtexec and by the agent


class Times(Message):
    """GPU compute time of every inference, ms, and how trtexec was called."""

    program: Text
    words: list[Text]
    compute_ms: Annotated[list[Positive], Field(min_length=1, max_length=20000)]


def measure(
    device: Device, engines: Mapping[str, Path], out: Path, fields: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str, list[int]], calibration: Path | None, *, seconds: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Time every plan, one after the other; raw times go to `out`/LABEL.json.

    Args:
        fields: label -> what the agent must know to load the engine.
        shapes: label -> shape of the input that is timed.

    Returns:
        label -> {"status": "measured", "compute_ms": Summary, "program", "words", "samples"}, or
        {"status": "not_measured", "reason"}.

    Raises:
        DeviceError: the link or the device is lost.
    """
    found: dict[str, dict[str, Any]] = {}
    with progress.task(f"Timing by trtexec on {device.name}", total=len(engines), unit="engines") as task:
        for label, path in engines.items():
            try:
                with device.session() as session:
                    there = place(session, path, fields[label], calibration)
                    answer = session.request(
                        "trtexec", timeout_s=LOAD_S + 10 * seconds, path=there, seconds=seconds, input_shape=shapes[label]
                    )
                times = check(Times, answer)
            except (ConnectionLostError, RemoteTimeoutError, DeviceBusyError):
                raise
            except DeviceError as error:
                found[label] = {"status": "not_measured", "reason": str(error.got or error.what).splitlines()[0]}
            else:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / f"{label}.json", {"unit": "ms", **times.model_dump()})
                found[label] = {
                    "status": "measured", "compute_ms": asdict(summarize(times.compute_ms)), "program": times.program,
                    "words": times.words, "samples": f"{out.name}/{label}.json",
                }  # fmt: skip
            task.advance(note=label)
    return found


def disagreement(device_p50_ms: float | None, found: Mapping[str, Any] | None) -> str | None:
    """In words, that trtexec and the agent give a plan other times on the GPU; None where they agree or one is missing."""
    theirs = found["compute_ms"]["p50"]["value"] if found and found["status"] == "measured" else None
    if device_p50_ms is None or theirs is None or abs(device_p50_ms / theirs - 1) <= AGREE:
        return None
    return f"on the GPU alone {device_p50_ms:#.3g} ms, by trtexec {theirs:#.3g} ms: more than {AGREE:.0%} apart"
