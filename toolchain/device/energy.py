"""Energy of an inference on a device: phases idle, lead-in, window, run-on, idle, sampled by a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.device.energy_request import EnergyRequest
from toolchain.device.machine import Device
from toolchain.device.target import Target
from toolchain.measurement.energy_result import EnergyResult, not_measured


def measure(
    device: Device, engines: Mapping[str, Path], out: Path, request: EnergyRequest, *, target: Target | None,
    fields: Mapping[str, Any], latency_p50_ms: Mapping[str, float] | None = None, imgsz: int | None = None,
    timeout_s: float = 600.0,
) -> dict[str, EnergyResult]:  # fmt: skip
    """Energy of every engine, one window each a round, the order turning round; windows already in `out` are kept.

    Args:
        device: open and held by the caller.
        engines: label -> file on this machine; the first is the baseline of the savings.
        out: folder for energy.json (the results) and, a folder a window, the raw trace, stamps and state.
        target: names the power sources; None: only an external meter can be used.
        fields: runtime, provider and threads (`On.engine_fields()`).
        latency_p50_ms: label -> median latency without sampling, for the overhead of sampling.

    Returns:
        label -> result; one without a number says why (`reason`, `detail`).

    Raises:
        RunFolderError: `out` holds another measurement.
        DeviceError and its kinds; windows measured before are kept.
    """
    return {label: not_measured("no_sensor", "sampling is not there yet") for label in engines}
