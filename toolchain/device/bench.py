"""Latency of several engines on one device, compared in turns.

One process per engine, all loaded before the first round, exactly one working at a time with a pause before each hand-over; the
order turns round every round, so slow drift of the machine cancels. The first engine is the baseline, and it runs a second time
in a process of its own as a control: the interval of that ratio must come within 2 % of 1, or the machine is too noisy for a
comparison.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device.engine_messages import BenchAnswer, Turn
from toolchain.device.messages import check
from toolchain.device.remote import Device, connect
from toolchain.device.results import BenchResult, result_of
from toolchain.device.samples import Samples, open_samples
from toolchain.device.session import AgentSession
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe, State
from toolchain.errors import ProtocolError, RunFolderError, UsageError
from toolchain.stage import file_sha256, read_json, write_json

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CONTROL = ".control"
PAUSE_S = 0.05
PROBE_S = 60.0
SESSIONS = "sessions.json"


def bench(
    engines: Mapping[str, Path], out: Path, on: On = HERE, *, rounds: int = 11, runs: int = 20, warmup_runs: int = 20,
    warmup_s: float = 1.0, aa_control: bool = True, timeout_s: float = 600.0, imgsz: int | None = None,
) -> BenchResult:  # fmt: skip
    """Measure every engine in `rounds` rounds of `runs` inferences each.

    Rounds already in `out` (same engines, same settings, same device) are kept and only the missing ones measured.

    Args:
        engines: label -> file; the first is the baseline of the ratios.
        out: folder for samples/LABEL.json (every sample), bench.json (the result) and what is needed to go on later.
        on: device, runtime, threads.
        warmup_runs, warmup_s: both must be reached before the first round.
        aa_control: measure the baseline a second time; without it the result says so.
        timeout_s: longest wait for loading, or for one turn.
        imgsz: side of the picture, for engines that take any.

    Returns:
        the result; `valid` is False, with the reasons, when it must not be used. Fewer than 6 rounds cannot pass the control.

    Raises:
        UsageError: no engines, a bad label or count.
        RunFolderError: `out` holds a benchmark of other engines, settings or another device.
        DeviceError and its kinds; rounds measured before are kept.
    """
    _check(engines, threads=on.threads, rounds=rounds, runs=runs, warmup_runs=warmup_runs, warmup_s=warmup_s)
    baseline = next(iter(engines))
    files = {**engines, **({baseline + CONTROL: engines[baseline]} if aa_control else {})}
    warmup = {"warmup_runs": warmup_runs, "warmup_s": float(warmup_s), "imgsz": imgsz}
    identity = {**on.engine_fields(), **warmup, "host": on.host, "runs": runs}
    samples = open_samples(out, {label: file_sha256(path) for label, path in files.items()}, identity)
    sessions: list[dict[str, Any]] = read_json(out / SESSIONS) if (out / SESSIONS).exists() else []
    missing = rounds - len(samples[0].rounds)
    if missing > 0 or not sessions or sessions[-1]["state_after"] is None:
        with connect(on.host, python=on.python) as device, ExitStack() as stack:
            watcher = stack.enter_context(device.session())
            this = _begin(watcher, sessions)
            if missing > 0:
                agents = _load(device, stack, files, {**on.engine_fields(), **warmup}, timeout_s + warmup_s, this)
                sessions.append(this)
                write_json(out / SESSIONS, sessions)
                with progress.task(f"Timing on {device.name}", total=missing, unit="rounds") as task:
                    for _ in range(missing):
                        _round(samples, agents, runs, len(sessions) - 1, timeout_s)
                        task.advance()
            sessions[-1]["state_after"] = check(State, watcher.request("state", timeout_s=PROBE_S)).model_dump()
            write_json(out / SESSIONS, sessions)
    control = baseline + CONTROL if aa_control else None
    result = result_of(samples, files, sessions, baseline=baseline, control=control, settings=identity)
    write_json(out / "bench.json", result.to_json())
    return result


def _load(
    device: Device, stack: ExitStack, files: Mapping[str, Path], fields: dict[str, Any], timeout_s: float, this: dict[str, Any]
) -> dict[str, AgentSession]:
    """Every engine in its own process, warmed up; what each said about itself goes into `this["loaded"]`."""
    agents: dict[str, AgentSession] = {}
    this["loaded"] = {}
    with progress.task(f"Loading on {device.name}", total=len(files), unit="engines") as task:
        for label, path in files.items():
            agents[label] = agent = stack.enter_context(device.session())
            answer = agent.request("bench", timeout_s=timeout_s, path=agent.put(path), **fields)
            this["loaded"][label] = check(BenchAnswer, answer).model_dump()
            task.advance(note=label)
    return agents


def _check(engines: Mapping[str, Path], *, warmup_s: float, **counts: int) -> None:
    if not engines:
        raise UsageError("nothing to measure: no engines were given")
    for label, path in engines.items():
        if not LABEL.fullmatch(label) or label.endswith(CONTROL):
            raise UsageError("not a label of an engine", got=repr(label), fix=f"letters, digits, . - _; not *{CONTROL}")
        if not path.is_file():
            raise UsageError("an engine's file does not exist", got=str(path))
    for name, value in counts.items():
        if value < (0 if name == "warmup_runs" else 1):
            raise UsageError(f"{name} is too small", got=value)
    if not 0 <= warmup_s < 3600:
        raise UsageError("warmup_s must be between 0 and 3600 seconds", got=warmup_s)


def _begin(watcher: AgentSession, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """What the device is and its state, which must be the same device as in earlier sessions."""
    probe = check(Probe, watcher.request("probe", timeout_s=PROBE_S))
    state = check(State, watcher.request("state", timeout_s=PROBE_S))
    described = probe.model_dump(exclude={"state"})
    for earlier in sessions[:1]:
        for key in ("hostname", "arch", "cpu_model", "cores", "kernel", "runtimes"):
            if earlier["device"][key] != described[key]:
                got = f"{key} {described[key]!r}, was {earlier['device'][key]!r}"
                raise RunFolderError("the rounds measured before come from another device", got=got, fix="use another folder")
    return {"device": described, "state_before": state.model_dump(), "state_after": None}


def _round(samples: list[Samples], agents: dict[str, AgentSession], runs: int, session: int, timeout_s: float) -> None:
    """One turn of every engine; nothing is kept of a round that does not get to its end."""
    forward = len(samples[0].rounds) % 2 == 0
    turns: list[tuple[Samples, Turn]] = []
    for one in samples if forward else samples[::-1]:
        time.sleep(PAUSE_S)  # the thread pool of the engine before must have stopped spinning
        turn = check(Turn, agents[one.label].request("go", timeout_s=timeout_s, runs=runs))
        if len(turn.latency_ms) != runs:
            raise ProtocolError("the device took another number of samples", got=f"{len(turn.latency_ms)}, asked for {runs}")
        turns.append((one, turn))
    for position, (one, turn) in enumerate(turns):
        one.add(turn, session=session, position=position)
    for one in samples:
        one.save()
