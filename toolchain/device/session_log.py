"""What stood around the samples: for every connection, the device, its state before, between the rounds and after."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.device import match, stability
from toolchain.device.conditions import Conditions
from toolchain.device.cool_down import HOTTEST, cool_down
from toolchain.device.messages import check
from toolchain.device.session import AgentSession
from toolchain.device.state_messages import Probe, State
from toolchain.device.target import Target
from toolchain.errors import MeasurementError, RunFolderError
from toolchain.stage import read_json, tool_versions, write_json

FILE = "sessions.json"
PROBE_S = 60.0
LOOK_EVERY_S = 2.0
SAME = ("hostname", "arch", "cpu_model", "cores", "kernel", "runtimes")


class SessionLog:
    """`sessions.json` of a benchmark's folder: one entry a connection, the last one still open while it measures.

    Attributes:
        entries: each {"id", "command", "conditions", "target": {"name", "verified_on_hardware"} or None, "device", "mismatches",
            "versions", "cool_down": {} or CoolDown.to_json(), "state_before",
            "states": [{"rounds", "state"}], "state_after" (None while open or cut off),
            "loaded": label -> what it said, "energy", "trtexec": label -> result, or None}.
    """

    def __init__(self, out: Path, target: Target | None, conditions: Conditions, command: str) -> None:
        self._path, self._target, self._conditions, self._command = out / FILE, target, conditions, command
        self._looked = time.monotonic()
        self.entries: list[dict[str, Any]] = read_json(self._path) if self._path.exists() else []

    @property
    def closed(self) -> bool:
        """Whether the last connection came to its end."""
        return bool(self.entries) and self.entries[-1]["state_after"] is not None

    @property
    def energy(self) -> dict[str, Any] | None:
        """The last energy results, by label."""
        return next((entry["energy"] for entry in reversed(self.entries) if entry["energy"] is not None), None)

    @property
    def trtexec(self) -> dict[str, Any] | None:
        """The last times by trtexec, by label."""
        return next((entry["trtexec"] for entry in reversed(self.entries) if entry.get("trtexec") is not None), None)

    def begin(self, watcher: AgentSession, cool_down_s: float | None) -> None:
        """A new entry: what the device is, which must be what it was and what the target says, and its state once it is cool.

        Args:
            cool_down_s: longest wait for the start temperature; 0: only looked at, if one was asked for; None: not even that.

        Raises:
            RunFolderError: another device than that of the entries before.
            MeasurementError: not the target's device, not cool in time, or it throttles.
        """
        probe = check(Probe, watcher.request("probe", timeout_s=PROBE_S))
        described = probe.model_dump(exclude={"state"})
        for earlier in self.entries[:1]:
            for key in SAME:
                if earlier["device"][key] != described[key]:
                    got = f"{key} {described[key]!r}, was {earlier['device'][key]!r}"
                    raise RunFolderError("the rounds measured before come from another device", got=got, fix="use another folder")
        wrong = match.check(self._target, probe) if self._target else []
        if wrong and self._target:
            self._refuse(f"{watcher.host} is not a {self._target.name}", wrong, "another --target")
        cooled = self._cool(watcher, cool_down_s)
        state = self.state(watcher)
        if slow := stability.throttled_now(state):
            self._refuse(f"{watcher.host} is slowed down before anything was measured", slow, "let it cool, check its supply")
        about = self._target and {"name": self._target.name, "verified_on_hardware": self._target.verified_on_hardware}
        self.entries.append({
            "id": uuid.uuid4().hex, "command": self._command, "conditions": self._conditions.to_json(), "target": about,
            "device": described, "mismatches": wrong, "versions": tool_versions(),
            "cool_down": cooled, "state_before": state.model_dump(),
            "states": [], "state_after": None, "loaded": {}, "energy": None, "trtexec": None,
        })  # fmt: skip

    def loaded(self, answers: Mapping[str, Any]) -> None:
        """What each engine said about itself after its warm-up."""
        self.entries[-1]["loaded"] = dict(answers)
        self._save()

    def glance(self, watcher: AgentSession, rounds: int) -> None:
        """The state between two rounds, where the last look was some time ago."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        self.entries[-1]["states"].append({"rounds": rounds, "state": self.state(watcher).model_dump()})

    def measured_energy(self, results: Mapping[str, Any]) -> None:
        """The energy results, by label."""
        self.entries[-1]["energy"] = json.loads(json.dumps(results))  # as it will be read back
        self._save()

    def timed_by_trtexec(self, results: Mapping[str, Any]) -> None:
        """What trtexec gave, by label."""
        self.entries[-1]["trtexec"] = json.loads(json.dumps(results))
        self._save()

    def end(self, watcher: AgentSession, rest_s: float) -> None:
        """The state after a rest in which slow counters catch up."""
        time.sleep(rest_s)
        self.entries[-1]["state_after"] = self.state(watcher).model_dump()
        self._save()

    def state(self, watcher: AgentSession) -> State:
        """The device's state now, read by what the target says of its sensors."""
        target = self._target
        sensors = target.sensors.model_dump() if target and target.sensors else None
        clocks = target.clocks.model_dump() if target and target.clocks else None
        return check(State, watcher.request("state", timeout_s=PROBE_S, sensors=sensors, clocks=clocks))

    def _cool(self, watcher: AgentSession, timeout_s: float | None) -> dict[str, Any]:
        """How the wait for the start temperature went; empty where nothing asked for it."""
        asked_c = self._conditions.start_temperature_c
        if timeout_s is None or (asked_c is None and timeout_s == 0):
            return {}
        first_c = self.entries[0]["state_before"]["temperature_c"] if self.entries else None
        reference_c = (first_c or {}) if asked_c is None else {HOTTEST: asked_c}
        went = cool_down(lambda: self.state(watcher), reference_c, timeout_s, watcher.host)
        if went.away:
            self._refuse(
                f"{watcher.host} is not at its start temperature after {went.waited_s:.0f} s", [str(one) for one in went.away],
                "wait longer (--cool-down S; 0: not at all), name another one (--start-temperature)",
            )  # fmt: skip
        return went.to_json()

    def _refuse(self, what: str, got: list[str], fix: str) -> None:
        if not self._conditions.keep_unstable:
            raise MeasurementError(
                what, got="; ".join(got), fix=f"{fix}, or --keep-unstable to measure it all the same, marked so"
            )

    def _save(self) -> None:
        write_json(self._path, self.entries)
