"""Strike at a chosen moment, and see what was measured by then."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from tests.lab.device import Device
from tests.lab.product import SHORT
from toolchain import progress
from toolchain.device import login
from toolchain.device import recover as recover_module
from toolchain.device.bench import Extras, bench
from toolchain.device.recover import recover
from toolchain.device.results import BenchResult
from toolchain.device.session import AgentSession
from toolchain.device.settings import On

DEV = On(host="dev", threads=1, patience_s=60.0)
Rounds = dict[str, list[Any]]


@dataclass
class Told:
    """What the user was told, and what the device was asked."""

    notes: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join(self.notes)


def listen(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Keep the notes and the requests from now on."""
    told, request = Told(), AgentSession.request

    def recorded(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        told.asked.append(op)
        return request(self, op, **fields)

    monkeypatch.setattr(AgentSession, "request", recorded)
    monkeypatch.setattr(progress, "note", told.notes.append)
    return told


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent link counts as lost after 3 s, and the device is looked for often."""
    monkeypatch.setattr(login, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(login, "CONNECT_S", 4.0)
    monkeypatch.setattr(recover_module, "PAUSE_S", 0.2)
    monkeypatch.setattr(recover_module, "LONGEST_PAUSE_S", 0.5)


def measure(folder: Path, on: On = DEV, *, rounds: int = 12) -> BenchResult:
    """A benchmark of two tiny engines, with patience."""
    engines = {name: tinynet.save_detector(folder / f"{name}.onnx", seed=seed) for seed, name in enumerate(("one", "two"))}
    pace = replace(SHORT, rounds=rounds)
    return recover(lambda: bench(engines, folder / "bench", on, pace, extras=Extras(aa_control=False)), on)


def measured(folder: Path) -> Rounds:
    """Rounds on the disk by engine."""
    return {path.stem: json.loads(path.read_text())["rounds"] for path in (folder / "bench" / "samples").glob("*.json")}


def whole(folder: Path) -> int:
    """Rounds that every engine has."""
    return min((len(rounds) for rounds in measured(folder).values()), default=0)


def nothing_lost(before: Rounds, folder: Path) -> bool:
    """Whether every round that was whole is still there as it was."""
    now, count = measured(folder), min((len(rounds) for rounds in before.values()), default=0)
    return count > 0 and all(now[label][:count] == rounds[:count] for label, rounds in before.items())


@contextmanager
def struck(
    when: Callable[[], bool], strike: Callable[[], object], heal: Callable[[], object], lasting_s: float
) -> Iterator[None]:
    """While the block runs: strike as soon as `when()` holds, heal after a while. It must have come to that."""
    stop, done, problems = threading.Event(), threading.Event(), []

    def work() -> None:
        try:
            while not when():
                if stop.wait(0.01):
                    return
            strike()
            stop.wait(lasting_s)
            heal()
            done.set()
            stop.wait()  # a device that was started anew ends with the thread that started it
        except Exception as error:  # noqa: BLE001 - raised in the test's own thread
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not problems, problems
    assert done.is_set(), "the fault never happened"


def before(monkeypatch: pytest.MonkeyPatch, op: str, strike: Callable[[], object], *, number: int = 1) -> None:
    """Strike just before a request for `op`, the first or a later one."""
    request, seen = AgentSession.request, [0]

    def striking(self: AgentSession, asked: str, **fields: Any) -> dict[str, Any]:
        seen[0] += asked == op
        if asked == op and seen[0] == number:
            strike()
        return request(self, asked, **fields)

    monkeypatch.setattr(AgentSession, "request", striking)


def nothing_runs(device: Device) -> bool:
    """Whether the device's agents are gone, after a short while."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not any(name.startswith("python") for name in device.processes().values()):
            return True
        time.sleep(0.1)
    return False
