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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.lab.plant_files import FRONTS
from tests.lab.sense import Counter, Ina3221
from tests.lab.waveform import Waveform

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
        return {**{name: getattr(self, name) for name in ("idle_w", "front", "switched", "idle_step", "fault")},
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
        folder.mkdir(parents=True, exist_ok=True)
        self._tell()
        command = [sys.executable, "-m", "tests.lab.plant", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the plant did not start")

    def on(self, name: str) -> float:
        """Load from a moment on, which is returned."""
        at = time.monotonic() + AHEAD_S
        self.change(name, switched=(*self.boards[name].switched, (at, None)))
        return at

    def off(self, name: str) -> float:
        """Rest from a moment on, which is returned."""
        at = time.monotonic() + AHEAD_S
        *before, (start, _) = self.boards[name].switched
        self.change(name, switched=(*before, (start, at)))
        return at

    def change(self, name: str, **fields: Any) -> None:
        """Anything about a board."""
        self.boards[name] = replace(self.boards[name], **fields)
        self._tell()

    def truth(self, name: str) -> Board:
        """What a board really draws."""
        return self.boards[name]

    def follow(self, name: str, phase: str) -> None:
        """Switch with the phases of a measurement."""
        if phase in ("lead_in", "marker_load"):
            self.on(name)
        elif phase in ("idle_after", "marker_idle") and self.boards[name].switched:
            self.off(name)

    def late_s(self) -> float:
        """How late the plant has been at worst: more than a small part of a sensor's period is the plant's own error."""
        path = self.folder / "late"
        return float(path.read_text()) if path.exists() else 0.0

    def stop(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _tell(self) -> None:
        partial = self.folder / "orders.partial"
        partial.write_text(json.dumps({name: board.to_json() for name, board in self.boards.items()}))
        partial.replace(self.folder / "orders.json")


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
    orders, seen = folder / "orders.json", 0
    boards: dict[str, Board] = {}
    fronts: dict[str, Any] = {}
    os.set_blocking(0, False)
    worst = told = 0.0
    while True:
        stamp = orders.stat().st_mtime_ns
        if stamp != seen:
            seen = stamp
            boards = {name: Board.from_json(data) for name, data in json.loads(orders.read_text()).items()}
            for name, board in boards.items():
                if name not in fronts:
                    fronts[name] = FRONTS[board.front](board)
                fronts[name].board = board
        if not told:
            print("ready", flush=True)
            told = time.monotonic()
        look = time.monotonic() + LOOK_EVERY_S
        while (due := min((front.due for front in fronts.values()), default=look)) < look:
            time.sleep(max(0.0, due - time.monotonic()))
            for front in fronts.values():
                if front.due <= due:
                    worst = max(worst, time.monotonic() - front.due) if time.monotonic() - told > 0.5 else worst
                    front.update()
        (folder / "late").write_text(f"{worst:.6f}")
        time.sleep(max(0.0, look - time.monotonic()))
        try:
            if os.read(0, 1) == b"":
                return
        except BlockingIOError:
            continue


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
