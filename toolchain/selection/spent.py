"""What a selection cost: wall time, the device's time and peak memory of every stage, kept over stops.

    with account(folder) as ledger:
        with stage("timing of plans"):
            ...
            with device():  # the device works
                ...

A second belongs to the innermost stage only, so that the stages add up. Where no ledger is open nothing is counted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolchain.memory import Memory, peak_memory
from toolchain.stage import append_line, read_lines

FILE = "spent.jsonl"


@dataclass(eq=False)
class Stage:
    """One stage of one run.

    Attributes:
        device_s: of `wall_s`, how long the device was at work.
        done, kept: pieces of work (engines, losses) made now, and found as an earlier run left them.
    """

    name: str
    wall_s: float = 0.0
    device_s: float = 0.0
    done: int = 0
    kept: int = 0
    memory: Memory = field(default_factory=Memory)
    at_work: bool = False
    since: float = 0.0

    def turn(self, at_work: bool) -> None:
        """The device begins or ends to work."""
        now = time.monotonic()
        if self.at_work:
            self.device_s += now - self.since
        self.at_work, self.since = at_work, now

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        numbers = {key: getattr(self, key) for key in ("name", "wall_s", "device_s", "done", "kept")}
        return {**numbers, "memory": asdict(self.memory)}


@dataclass
class Ledger:
    """The stages of this run, and what earlier runs in the same folder wrote down."""

    path: Path
    run: str
    earlier: list[dict[str, Any]]
    stages: list[Stage] = field(default_factory=list)
    clock: float = field(default_factory=time.monotonic)
    under_way: list[Stage] = field(default_factory=list)

    def tick(self) -> None:
        """Give the time since the last tick to the innermost stage."""
        now = time.monotonic()
        if self.under_way:
            self.under_way[-1].wall_s += now - self.clock
        self.clock = now

    def to_json(self) -> list[dict[str, Any]]:
        """One entry a stage, in the order of their beginning; `earlier_*_s` are of runs that were stopped or done before."""
        rows: dict[str, dict[str, Any]] = {}
        for one in self.stages:
            row = rows.setdefault(one.name, _empty(one.name))
            for key in ("wall_s", "device_s", "done", "kept"):
                row[key] += getattr(one, key)
            if one.memory.peak_mb is not None and one.memory.peak_mb >= (row["peak_mb"] or 0.0):
                row |= {"before_mb": one.memory.before_mb, "peak_mb": one.memory.peak_mb}
            row["no_memory"] = one.memory.why
        for line in self.earlier:
            row = rows.setdefault(line["name"], _empty(line["name"]))
            row["earlier_wall_s"] += line["wall_s"]
            row["earlier_device_s"] += line["device_s"]
        return list(rows.values())


_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


def _empty(name: str) -> dict[str, Any]:
    times = {"wall_s": 0.0, "device_s": 0.0, "earlier_wall_s": 0.0, "earlier_device_s": 0.0, "done": 0, "kept": 0}
    return {"stage": name, **times, "before_mb": None, "peak_mb": None, "no_memory": None}


@contextmanager
def account(folder: Path) -> Iterator[Ledger]:
    """Count until the block ends; every stage is written to the folder when it ends, whole or not."""
    path = folder / FILE
    ledger = Ledger(path, uuid.uuid4().hex, list(read_lines(path)))
    token = _ledger.set(ledger)
    try:
        yield ledger
    finally:
        _ledger.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What is done in the block belongs to this stage."""
    ledger = _ledger.get()
    if ledger is None:
        yield
        return
    one = Stage(name)
    ledger.tick()
    ledger.stages.append(one)
    ledger.under_way.append(one)
    try:
        with peak_memory() as one.memory:
            yield
    finally:
        ledger.tick()
        ledger.under_way.remove(one)
        append_line(ledger.path, {"run": ledger.run, **one.to_json()})


@contextmanager
def device(*, at_work: bool = True) -> Iterator[None]:
    """The device is at work in the block; or, also inside of such a block, it waits for the host."""
    one = _now()
    if one is None:
        yield
        return
    before = one.at_work
    one.turn(at_work)
    try:
        yield
    finally:
        one.turn(before)


def count(done: int, kept: int) -> None:
    """Pieces of work of the present stage."""
    if (one := _now()) is not None:
        one.done += done
        one.kept += kept


def _now() -> Stage | None:
    ledger = _ledger.get()
    return ledger.under_way[-1] if ledger and ledger.under_way else None
