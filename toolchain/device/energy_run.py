"""One repeat of an energy measurement on a device: a process that loads, another that samples, and their files brought here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device.energy_request import EnergyRequest
from toolchain.device.energy_sensor import Chosen, phase_of, sampling
from toolchain.device.messages import check
from toolchain.device.meters import Meter
from toolchain.device.power_messages import LoadAnswer, Reader, Sampled
from toolchain.device.session import AgentSession
from toolchain.device.state_messages import State
from toolchain.device.target import Target
from toolchain.errors import ProtocolError
from toolchain.stage import write_json

STATE_S = 60.0
SPARE_S = 300.0  # a sampler that nobody stops ends so long after the last phase
READINGS, STAMPS, METER, ABOUT = "readings.jsonl", "inferences.npy", "meter.json", "window.json"

Plan = list[tuple[str, float, bool]]


def plan_of(request: EnergyRequest, refresh_s: float | None, *, marker: bool, external: bool) -> Plan:
    """The phases in order: name, seconds, whether the engine runs."""
    lengths = request.lengths
    phases: Plan = []
    for seconds in lengths.marker_s if marker else ():
        phases += [("marker_rest", seconds, False), ("marker_load", seconds, True)]
    return [
        *phases,
        ("idle_before", lengths.idle_s, False),
        ("lead_in", lengths.lead_in_s, True),
        ("window", lengths.window_for(refresh_s), True),
        ("run_on", max(lengths.run_on_s, lengths.lead_in_s) if external else lengths.run_on_s, True),
        ("idle_after", lengths.idle_s, False),
    ]


def state_of(session: AgentSession, target: Target | None) -> State:
    """The device's state, by the target's sensors."""
    parts: dict[str, Any] = {} if target is None else {"sensors": target.sensors, "clocks": target.clocks}
    fields: dict[str, Any] = {name: part.model_dump() for name, part in parts.items() if part is not None}
    return check(State, session.request("state", timeout_s=STATE_S, **fields))


def run_window(
    sampler: AgentSession, load: AgentSession, folder: Path, plan: Plan, by: Chosen | Meter, *,
    fields: Mapping[str, Any], target: Target | None, timeout_s: float, on_phase: Callable[[str], None],
) -> None:  # fmt: skip
    """Measure once; `folder` then holds the readings, the stamps and, last of all, window.json.

    Args:
        sampler, load: two processes on the device; with an external meter the first only tells the device's state and clock.
        by: the device's own sensor, or a meter.
        fields: what the load needs: path of the engine there, runtime, provider, threads, imgsz, rate_hz.
        on_phase: called with the name of each phase as it begins.
    """
    begun: list[float] = []
    states: dict[str, Any] = {"before": state_of(sampler, target).model_dump()}
    total_s = sum(seconds for _, seconds, _ in plan)
    with progress.task(f"Energy on {load.host}, {total_s:.0f} s", total=len(plan), unit="phases") as task:

        def begins(name: str, data: object) -> None:
            phase = phase_of(name, data)
            begun.append(time.time())
            task.advance(note=phase)
            on_phase(phase)
            if phase == "run_on":  # still under load, and no longer in the window
                states["loaded"] = state_of(sampler, target).model_dump()

        asked = {"phases": [list(phase) for phase in plan], **fields}
        longest_s = max(seconds for _, seconds, _ in plan) + timeout_s
        if isinstance(by, Chosen):
            start: dict[str, Any] = {"source": by.source.model_dump(), "interval_s": by.interval_s}
            with sampling():
                check(Reader, sampler.request("power_start", timeout_s=timeout_s, longest_s=total_s + SPARE_S, **start))
            did = check(LoadAnswer, load.request("energy", timeout_s=longest_s, on_event=begins, **asked))
            with sampling():
                sampled = check(Sampled, sampler.request("power_stop", timeout_s=timeout_s))
                sampler.get(sampled.path, folder / READINGS, size=sampled.size, sha256=sampled.sha256)
            taken: dict[str, Any] = sampled.model_dump(exclude={"path", "size"})
        else:
            with by.running(sampler) as readings:
                did = check(LoadAnswer, load.request("energy", timeout_s=longest_s, on_event=begins, **asked))
            taken = {"readings": len(readings.t_s)}
            write_json(folder / METER, readings.to_json())
    states["after"] = state_of(sampler, target).model_dump()
    if [phase.name for phase in did.phases] != [name for name, _, _ in plan] or "loaded" not in states:
        raise ProtocolError(f"{load.host}, energy: other phases than were asked for", got=[phase.name for phase in did.phases])
    load.get(did.path, folder / STAMPS, size=did.size, sha256=did.sha256)
    loaded = did.model_dump(exclude={"path", "size"})
    write_json(folder / ABOUT, {"plan": plan, "load": loaded, "sampler": taken, "states": states,
                                "host_unix": begun[0]})  # fmt: skip
