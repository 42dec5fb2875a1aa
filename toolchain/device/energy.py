"""Energy of an inference on a device: phases idle, lead-in, window, run-on, idle; a process loads and another one samples.

Latency is another pass (bench): sampling may disturb the load, and by how much is part of the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.device.conversion import place
from toolchain.device.energy_judge import judge, result_of
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.energy_run import ABOUT, plan_of, run_window
from toolchain.device.energy_sensor import Chosen, SamplerError, choose, look
from toolchain.device.machine import Device
from toolchain.device.meters import Meter, open_meter
from toolchain.device.session import AgentSession
from toolchain.device.target import Target
from toolchain.errors import MeasurementError, RunFolderError
from toolchain.measurement.energy_result import EnergyResult, not_measured, saving
from toolchain.stage import file_sha256, read_json, write_json

AFTERWARDS = ("repeats", "meter_error_percent", "meter_error_w")  # what may be another when the same call goes on
IDENTITY, SENSOR, RESULT = "identity.json", "sensor.json", "energy.json"


def measure(
    device: Device, engines: Mapping[str, Path], out: Path, request: EnergyRequest, *, target: Target | None,
    fields: Mapping[str, Mapping[str, Any]], latency_p50_ms: Mapping[str, float] | None = None, imgsz: int | None = None,
    timeout_s: float = 600.0, on_phase: Callable[[str], None] = lambda name: None, calibration: Path | None = None,
) -> dict[str, EnergyResult]:  # fmt: skip
    """Energy of every engine, one window each a round, the order turning round; windows already in `out` are kept.

    Args:
        device: open and held by the caller.
        engines: label -> file on this machine; the first is the baseline of the savings.
        out: folder for energy.json (the results) and, a folder a window, the raw readings, stamps and states.
        target: names the power sources; None: only an external meter can be used.
        fields: label -> runtime, provider and threads (`On.engine_fields()`).
        latency_p50_ms: label -> median latency without sampling, for the overhead of sampling.
        imgsz: side of the picture, for engines that take any.
        timeout_s: longest wait for loading an engine.
        on_phase: called with the name of each phase as it begins.
        calibration: see On.

    Returns:
        label -> result; one without a number says why (`reason`, `detail`).

    Raises:
        RunFolderError: `out` holds another measurement.
        DeviceError and its kinds; windows measured before are kept, and the same call goes on with the next.
    """
    meter = open_meter(request.meter) if request.meter else None
    load = {label: {**fields[label], "imgsz": imgsz, "rate_hz": request.rate_hz} for label in engines}
    job = _Job(device, engines, out, request, target, load, timeout_s, on_phase, calibration)
    out.mkdir(parents=True, exist_ok=True)
    _same_job(job)
    try:
        by: Chosen | Meter | EnergyResult = meter if meter is not None else _sensor(job)
        if not isinstance(by, EnergyResult):
            _windows(job, by)
    except SamplerError as error:
        by = not_measured("sampler_failed", str(error).replace("\n  ", ", "))
    results = dict.fromkeys(engines, by) if isinstance(by, EnergyResult) else _results(job, by, latency_p50_ms or {})
    write_json(out / RESULT, {"request": request.to_json(), "engines": {name: one.to_json() for name, one in results.items()}})
    return results


@dataclass(frozen=True)
class _Job:
    """What is measured, where and how; see `measure`. `load` is what the process that loads must know, by label."""

    device: Device
    engines: Mapping[str, Path]
    out: Path
    request: EnergyRequest
    target: Target | None
    load: dict[str, dict[str, Any]]
    timeout_s: float
    on_phase: Callable[[str], None]
    calibration: Path | None

    def place(self, loader: AgentSession, label: str) -> str:
        """Path of an engine on the device."""
        return place(loader, self.engines[label], self.load[label], self.calibration)

    def folder(self, label: str, number: int) -> Path:
        """Where one window's files are."""
        return self.out / label / str(number)


def _same_job(job: _Job) -> None:
    """Refuse a folder that holds another measurement. More repeats of the same are welcome."""
    identity = {
        "engines": {label: file_sha256(path) for label, path in job.engines.items()},
        "request": {key: value for key, value in job.request.to_json().items() if key not in AFTERWARDS},
        "load": job.load, "host": job.device.name, "power": None if job.target is None else job.target.power.model_dump(),
    }  # fmt: skip
    path = job.out / IDENTITY
    if not path.exists():
        write_json(path, identity)
    elif read_json(path) != json.loads(json.dumps(identity)):
        raise RunFolderError(
            "the folder holds another energy measurement", got=str(job.out), fix="use another folder, or remove it"
        )


def _sensor(job: _Job) -> Chosen | EnergyResult:
    """The source to read, the same for all windows of a folder."""
    if (job.out / SENSOR).exists():
        return Chosen.from_json(read_json(job.out / SENSOR))
    with job.device.session() as sampler, job.device.session() as loader:
        found = choose(sampler, job.target)
        if isinstance(found, EnergyResult):
            return found
        first = next(iter(job.engines))
        load = {**job.load[first], "path": job.place(loader, first)}
        chosen = look(sampler, loader, found[0], load, job.out, job.request.lengths.swings, job.on_phase)
    write_json(job.out / SENSOR, chosen.to_json())
    return chosen


def _windows(job: _Job, by: Chosen | Meter) -> None:
    """Measure the windows that are still missing."""
    marker = not isinstance(by, Chosen) and by.own_clock
    plan = plan_of(job.request, by.refresh_s, marker=marker, external=not isinstance(by, Chosen))
    for number in range(job.request.repeats):
        for label in list(job.engines)[:: 1 if number % 2 == 0 else -1]:
            folder = job.folder(label, number)
            if (folder / ABOUT).exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with job.device.session() as sampler, job.device.session() as loader:
                fields = {**job.load[label], "path": job.place(loader, label)}
                run_window(sampler, loader, folder, plan, by, fields=fields, target=job.target, timeout_s=job.timeout_s,
                           on_phase=job.on_phase)  # fmt: skip


def _results(job: _Job, by: Chosen | Meter, latency_p50_ms: Mapping[str, float]) -> dict[str, EnergyResult]:
    """Every engine's result from the raw files, and how much less than the baseline it takes."""
    if isinstance(by, Chosen):
        chosen, covers, flags = by, by.covers(), list(by.flags)
    else:
        chosen, flags = None, []
        covers = {"scope": job.request.meter_scope, "rails": ("meter",), "sensor": {**by.about(), **job.request.meter_error()}}
    if job.request.profile != "report" or job.request.phases is not None:
        flags.append("measured with shorter phases than a report's, or others")
    results = {}
    for label in job.engines:
        repeats = [judge(job.folder(label, number), chosen) for number in range(job.request.repeats)]
        results[label] = result_of(repeats, covers, flags=flags, latency_p50_ms=latency_p50_ms.get(label))
    baseline, *others = job.engines
    for label in others:
        try:
            results[label] = replace(results[label], saving=saving(results[baseline], results[label]))
        except MeasurementError:  # one of them was not measured, which the result itself says
            continue
    return results
