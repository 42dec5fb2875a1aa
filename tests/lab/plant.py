"""A power plant: sensor files of boards that draw a known power, written in real time as the real sensors would.

One process serves any number of boards. The truth of a board is `idle_w`, and on top of it the load's waveform from each `on` to
the next `off`; both are set for a moment in the near future, so that parent and plant agree to the microsecond. Everything is on
CLOCK_MONOTONIC. Files are written in place, fixed in length, as samplers may keep them open; never truncated, never renamed.

    with start_plant({"board": Board(root=..., load=waveform)}) as plant:
        plant.on("board"); ...; plant.truth("board").between(a, b)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.lab.cpu_load import CpuClock, CpuTruth
from tests.lab.plant_files import FRONTS
from tests.lab.sense import Counter, Ina3221
from tests.lab.waveform import Waveform

LATE_NOTED_S = 0.004
LOOK_EVERY_S = 0.02  # at what the parent wants
AHEAD_S = 0.15  # a change of the load is announced so long before


@dataclass(frozen=True)
class Board:
    """One board with one sensor.

    Attributes:
        root: the folder that stands for the board's /.
        front: hwmon, iio, pmic or rapl.
        rails: NAME -> share of the power that it carries; "NC" is a channel that is not connected.
        sensor: for the fronts of sampled power; `counter` for rapl.
        switched: (on, off) moments of the load so far; off None while it runs.
        watts_per_core: not 0: instead of `load`, the power follows the CPU time of the parent's other children.
        idle_step: (moment, W) by which the power at rest moves from then on.
        fault: "", "stuck", "absent", "zero", "late", or "renumber": the chip comes back under another number.
    """

    root: Path
    load: Waveform
    idle_w: float = 3.0
    front: str = "hwmon"
    rails: Mapping[str, float] = field(default_factory=lambda: {"VDD_IN": 1.0})
    sensor: Ina3221 = field(default_factory=lambda: Ina3221(0.1))
    counter: Counter = field(default_factory=Counter)
    switched: tuple[tuple[float, float | None], ...] = ()
    idle_step: tuple[float, float] = (0.0, 0.0)
    fault: str = ""
    watts_per_core: float = 0.0

    def power(self, t: float) -> float:
        """W at t."""
        step_at, step_w = self.idle_step
        rest = self.idle_w + (step_w if t >= step_at else 0.0)
        return rest + sum(self.load.power(t - on) for on, off in self.switched if on <= t and (off is None or t < off))

    def energy(self, t: float) -> float:
        """J up to t, since some moment before everything."""
        step_at, step_w = self.idle_step
        return self.idle_w * t + step_w * max(0.0, t - step_at) + self.marginal(t)

    def marginal(self, t: float) -> float:
        """J that the load took up to t."""
        spans = ((on, t if off is None else min(t, off)) for on, off in self.switched)
        return sum(self.load.between(0.0, end - on) for on, end in spans if end > on)

    def between(self, a: float, b: float) -> float:
        """J in [a, b]."""
        return self.energy(b) - self.energy(a)

    def to_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in ("idle_w", "front", "switched", "idle_step", "fault", "watts_per_core")},
                "root": str(self.root), "load": self.load.to_json(), "rails": dict(self.rails), "sensor": asdict(self.sensor),
                "counter": asdict(self.counter)}  # fmt: skip

    @staticmethod
    def from_json(data: dict[str, Any]) -> Board:
        return Board(**{
            **data, "root": Path(data["root"]), "load": Waveform.from_json(data["load"]), "sensor": Ina3221(**data["sensor"]),
            "counter": Counter(**data["counter"]), "switched": tuple((on, off) for on, off in data["switched"]),
            "idle_step": tuple(data["idle_step"]),
        })  # fmt: skip


class Plant:
    """The parent's end."""

    def __init__(self, folder: Path, boards: Mapping[str, Board]) -> None:
        self.folder, self.boards = folder, dict(boards)
        self._asked: dict[str, float] = {}
        (folder / "orders").mkdir(parents=True)
        for name in boards:
            self._tell(name)
        command = [sys.executable, "-m", "tests.lab.plant", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the plant did not start")

    def on(self, name: str) -> None:
        """Load from a moment on, unless it is already there."""
        switched = self.boards[name].switched
        if not switched or switched[-1][1] is not None:
            self.change(name, switched=(*switched, (time.monotonic() + AHEAD_S, None)))

    def off(self, name: str) -> None:
        """Rest from a moment on, unless there is rest already."""
        *before, (start, end) = self.boards[name].switched or ((0.0, 0.0),)
        if end is None:
            self.change(name, switched=(*before, (start, time.monotonic() + AHEAD_S)))

    def change(self, name: str, **fields: Any) -> None:
        """Anything about a board."""
        self.boards[name] = replace(self.boards[name], **fields)
        self._tell(name)

    def truth(self, name: str) -> Board:
        """What a board really draws."""
        return self.boards[name]

    def follow(self, name: str, phase: str) -> None:
        """Switch with the phases of a measurement."""
        if phase in ("lead_in", "marker_load", "probe_load"):
            self.on(name)
        elif phase in ("idle_before", "idle_after", "marker_rest", "probe_rest"):
            self.off(name)

    def cpu_truth(self, name: str) -> CpuTruth:
        """What a board with `watts_per_core` has drawn so far."""
        board = self.boards[name]
        return CpuTruth(board.idle_w, board.watts_per_core, self.folder / f"{name}.cpu").load()

    def late_s(self, name: str) -> float:
        """How late a board's files were at worst since this was last asked: the plant's own error, not the measurement's."""
        late = json.loads((self.folder / "late").read_text())[name]
        new = [seconds for at, seconds in late if at > self._asked.get(name, 0.0)]
        self._asked[name] = time.monotonic()
        return max(new, default=0.0)

    def stop(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _tell(self, name: str) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(self.boards[name].to_json()))
        partial.replace(self.folder / "orders" / name)


@contextmanager
def start_plant(folder: Path, boards: Mapping[str, Board]) -> Iterator[Plant]:
    """A running plant; gone at the end."""
    plant = Plant(folder, boards)
    try:
        yield plant
    finally:
        plant.stop()


def serve(folder: Path) -> None:
    """The plant's own process: ends when its standard input does."""
    orders = {path.name: path for path in sorted((folder / "orders").iterdir())}
    seen: dict[str, int] = {}
    fronts: dict[str, Any] = {}
    cpu, clock = {}, CpuClock(os.getppid())  # type: ignore[var-annotated]
    os.set_blocking(0, False)
    late: dict[str, deque[tuple[float, float]]] = {}
    ready = False
    while True:
        for name, path in orders.items():
            inode = path.stat().st_ino
            if seen.get(name) != inode:
                seen[name], board = inode, Board.from_json(json.loads(path.read_text()))
                if board.watts_per_core and name not in cpu:
                    cpu[name] = CpuTruth(board.idle_w, board.watts_per_core, folder / f"{name}.cpu")
                    cpu[name].look(time.monotonic(), clock.read())
                if name not in fronts:
                    fronts[name], late[name] = FRONTS[board.front](board, cpu.get(name)), deque(maxlen=200)
                fronts[name].board = board
        if not ready:
            ready = True
            _tell_late(folder, late)
            print("ready", flush=True)
        look = time.monotonic() + LOOK_EVERY_S
        while (due := min(front.due for front in fronts.values())) < look:
            time.sleep(max(0.0, due - time.monotonic()))
            for name, front in fronts.items():
                if front.due <= due:
                    behind = time.monotonic() - front.due
                    if name in cpu:
                        cpu[name].look(time.monotonic(), clock.read())
                    front.update()
                    if behind > LATE_NOTED_S:
                        late[name].append((time.monotonic(), behind))
                        _tell_late(folder, late)
        for truth in cpu.values():
            truth.look(time.monotonic(), clock.read())
        time.sleep(max(0.0, look - time.monotonic()))
        try:
            if os.read(0, 1) == b"":
                return
        except BlockingIOError:
            continue


def _tell_late(folder: Path, late: dict[str, deque[tuple[float, float]]]) -> None:
    partial = folder / "late.partial"
    partial.write_text(json.dumps({name: list(seen) for name, seen in late.items()}))
    partial.replace(folder / "late")


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
