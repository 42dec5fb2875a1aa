"""Latency of several engines on one device, compared in turns.

One process per engine, all loaded before the first round, exactly one working at a time with a pause before each hand-over; the
order turns round every round, so slow drift of the machine cancels. The first engine is the baseline, and it runs a second time
in a process of its own as a control: the interval of that ratio must come within 2 % of 1, or the machine is too noisy for a
comparison.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import progress
from toolchain.device import energy, trtexec
from toolchain.device.claim import claim
from toolchain.device.conditions import AS_IT_IS, Conditions
from toolchain.device.conversion import place
from toolchain.device.end_to_end import RANDOM, Picture
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.engine_messages import BenchAnswer, PacedTurn, Turn, WholeTurn
from toolchain.device.messages import check
from toolchain.device.pace import PACES, Pace
from toolchain.device.paced import check_rate, paced_fields
from toolchain.device.prepared import prepared
from toolchain.device.remote import Device, connect
from toolchain.device.results import BenchResult, result_of
from toolchain.device.samples import Samples, open_samples
from toolchain.device.session import AgentSession
from toolchain.device.session_log import SessionLog
from toolchain.device.settings import HERE, On
from toolchain.device.target import load_target
from toolchain.errors import ProtocolError, UsageError
from toolchain.stage import file_sha256, write_json

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CONTROL = ".control"
PAUSE_S = 0.05
QUICK = PACES["quick"]


@dataclass(frozen=True)
class Extras:
    """What is asked for beside latency.

    Attributes:
        aa_control: measure the baseline a second time; without it the result says so.
        picture: what whole detections are timed on; used where the pace asks for them.
        energy: None: not measured.
        rate_hz: also the latency at this many frames a second, sleeping in between; None: not measured.
        export_times: the samples also as times/LABEL.json, in the shape of `trtexec --exportTimes`.
        trtexec: TensorRT's plans also by trtexec, where the device has it; in a report always.
    """

    aa_control: bool = True
    picture: Picture = RANDOM
    energy: EnergyRequest | None = None
    rate_hz: float | None = None
    export_times: bool = False
    trtexec: bool = False

    def __post_init__(self) -> None:
        check_rate(self.rate_hz)


LATENCY_ALONE = Extras()


def bench(
    engines: Mapping[str, Path], out: Path, on: On = HERE, pace: Pace = QUICK, *, extras: Extras = LATENCY_ALONE,
    conditions: Conditions = AS_IT_IS, imgsz: int | None = None, timeout_s: float = 600.0, command: str = "",
    ons: Mapping[str, On] | None = None,
) -> BenchResult:  # fmt: skip
    """Measure every engine in rounds.

    Rounds already in `out` (same engines, same settings, same device) are kept and only the missing ones measured.

    Args:
        engines: label -> file; the first is the baseline of the ratios.
        out: folder for LABEL.json in samples/, end-to-end/, paced/ and trtexec/ (every sample), bench.json (the result),
            sessions.json (the device around them) and energy/.
        on: device, runtime, threads, target.
        pace: how long and how often.
        imgsz: side of the picture, for engines that take any.
        timeout_s: longest silence of the device beyond the length of a pass.
        command: how this was asked for, for the record.
        ons: label -> runtime, provider and threads of that engine; None: those of `on` for all. All else is always that of `on`.

    Returns:
        the result; `valid` is False, with the reasons, when it must not be used. Fewer than 6 rounds cannot pass the control.

    Raises:
        UsageError: no engines, a bad label or count.
        RunFolderError: `out` holds a benchmark of other engines or settings, or of another device.
        MeasurementError: the device is not the target's, or not in the state asked for.
        DeviceError and its kinds; rounds measured before are kept.
    """
    _check(engines, on)
    target = load_target(on.target) if on.target else None
    baseline = next(iter(engines))
    files = {**engines, **({baseline + CONTROL: engines[baseline]} if extras.aa_control else {})}
    hashes = {label: file_sha256(path) for label, path in files.items()}
    by = {label: (ons or {}).get(label.removesuffix(CONTROL), on).engine_fields() for label in files}
    settings = {
        **on.engine_fields(), **({"by": by} if ons else {}),
        "host": on.host, "target": on.target, "imgsz": imgsz, "pace": pace.of_a_round(),
        "power_mode": conditions.power_mode, "pin_clocks": conditions.pin_clocks,
        "picture": extras.picture.to_json() if pace.end_to_end else None, "rate_hz": extras.rate_hz,
    }  # fmt: skip
    claim(out, hashes, settings)
    alone = open_samples(out, hashes, files)
    whole = open_samples(out, hashes, engines, WholeTurn) if pace.end_to_end else []
    paced = open_samples(out, hashes, engines, PacedTurn) if extras.rate_hz else []
    log = SessionLog(out, target, conditions, command)
    missing = any(len(some[0].rounds) < pace.rounds for some in (alone, whole, paced) if some)
    plans = _plans(engines, by, extras, pace)
    due = missing or (extras.energy is not None and log.energy is None) or (bool(plans) and log.trtexec is None)
    if due or not log.closed:
        with connect(on.host, python=on.python) as device, prepared(device, on, target, conditions) as watcher:
            log.begin(watcher, pace.cool_down_s if due else None)
            if missing:
                with ExitStack() as stack:
                    fields = {label: {**by[label], **pace.warmup_fields(), "imgsz": imgsz} for label in files}
                    agents = _load(device, stack, files, fields, on.calibration, timeout_s, log)
                    rounds = Rounds(agents, pace, timeout_s, log, watcher)
                    rounds.measure(alone, "go", pace.pass_fields(), f"Timing on {device.name}")
                    if whole:
                        whole_fields = {**pace.pass_fields(pace.end_pass_s), **extras.picture.put(agents[baseline])}
                        rounds.measure(whole, "whole", whole_fields, f"Timing whole detections on {device.name}")
                    if extras.rate_hz:
                        at_rate = paced_fields(pace, extras.rate_hz)
                        rounds.measure(paced, "paced", at_rate, f"Timing {extras.rate_hz:g} frames a second on {device.name}")
            if extras.energy is not None:
                p50 = {one.label: float(np.median(np.concatenate(one.by_round()))) for one in alone}
                found = energy.measure(
                    device, engines, out / "energy", extras.energy, target=target, fields=by, calibration=on.calibration,
                    latency_p50_ms=p50, imgsz=imgsz, timeout_s=timeout_s,
                    on_phase=lambda name: progress.note(f"  energy on {device.name}: {name}"),
                )  # fmt: skip
                log.measured_energy({label: result.to_json() for label, result in found.items()})
            if plans and log.trtexec is None:
                shapes = {label: log.entries[0]["loaded"][label]["input_shape"] for label in plans}
                seconds = trtexec.SECONDS_OF_A_REPORT if pace.name == "report" else trtexec.SECONDS
                load = {label: {**by[label], "imgsz": imgsz} for label in plans}
                timed = trtexec.measure(device, plans, out / "trtexec", load, shapes, on.calibration, seconds=seconds)
                log.timed_by_trtexec(timed)
            log.end(watcher, pace.post_s)
    control = baseline + CONTROL if extras.aa_control else None
    result = result_of(alone, whole, paced, files, log.entries, pace, baseline=baseline, control=control, settings=settings)
    write_json(out / "bench.json", result.to_json())
    if extras.export_times:
        (out / "times").mkdir(exist_ok=True)
        for one in alone:
            if one.label != control:
                write_json(out / "times" / f"{one.label}.json", one.trtexec_times())
    return result


def _check(engines: Mapping[str, Path], on: On) -> None:
    if not engines:
        raise UsageError("nothing to measure: no engines were given")
    for label, path in engines.items():
        if not LABEL.fullmatch(label) or label.endswith(CONTROL):
            raise UsageError("not a label of an engine", got=repr(label), fix=f"letters, digits, . - _; not *{CONTROL}")
        if not path.is_file():
            raise UsageError("an engine's file does not exist", got=str(path))
    if on.threads < 1:
        raise UsageError("threads is out of range", got=on.threads, fix="1 or more")


def _plans(engines: Mapping[str, Path], by: Mapping[str, dict[str, Any]], extras: Extras, pace: Pace) -> dict[str, Path]:
    """Engines that trtexec is to time too."""
    found = {label: path for label, path in engines.items() if by[label]["runtime"] == trtexec.RUNTIME}
    if extras.trtexec and not found:
        raise UsageError("trtexec times TensorRT's engines, and there are none", fix="--runtime tensorrt")
    return found if extras.trtexec or pace.name == "report" else {}


def _load(
    device: Device,
    stack: ExitStack,
    files: Mapping[str, Path],
    fields: Mapping[str, dict[str, Any]],
    calibration: Path | None,
    timeout_s: float,
    log: SessionLog,
) -> dict[str, AgentSession]:
    """Every engine in its own process, warmed up."""
    agents = {label: stack.enter_context(agent) for label, agent in zip(files, device.sessions(len(files)), strict=True)}
    said: dict[str, Any] = {}
    with progress.task(f"Loading and warming up on {device.name}", total=len(files), unit="engines") as task:
        for label, path in files.items():
            there = place(agents[label], path, fields[label], calibration)
            answer = agents[label].request("bench", timeout_s=timeout_s, path=there, **fields[label])
            said[label] = check(BenchAnswer, answer).model_dump()
            task.advance(note=label)
    log.loaded(said)
    return agents


@dataclass(frozen=True)
class Rounds:
    """Engines that are loaded and wait for their turns."""

    agents: Mapping[str, AgentSession]
    pace: Pace
    timeout_s: float
    log: SessionLog
    watcher: AgentSession

    def measure(self, samples: Sequence[Samples], op: str, fields: Mapping[str, Any], title: str) -> None:
        """The rounds that are missing, with a look at the device after each."""
        missing = max(0, self.pace.rounds - len(samples[0].rounds))
        with progress.task(title, total=missing, unit="rounds") as task:
            for _ in range(missing):
                self._round(samples, op, fields)
                self.log.glance(self.watcher, len(samples[0].rounds))
                task.advance()

    def _round(self, samples: Sequence[Samples], op: str, fields: Mapping[str, Any]) -> None:
        """One pass of every engine; nothing is kept of a round that does not get to its end."""
        forward = len(samples[0].rounds) % 2 == 0
        turns: list[tuple[Samples, Turn]] = []
        for one in samples if forward else samples[::-1]:
            time.sleep(PAUSE_S)  # the thread pool of the engine before must have stopped spinning
            answer = self.agents[one.label].request(op, timeout_s=self.timeout_s + fields["seconds"], **fields)
            turn = check(one.kind, answer)
            if turn.stopped == "enough" and len(turn.latency_ms) < fields["runs"]:
                got = f"{len(turn.latency_ms)}, asked for {fields['runs']}"
                raise ProtocolError("the device took another number of samples", got=got)
            turns.append((one, turn))
        for position, (one, turn) in enumerate(turns):
            one.add(turn, session=len(self.log.entries) - 1, position=position)
        for one in samples:
            one.save()
