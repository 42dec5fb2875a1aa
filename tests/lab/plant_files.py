"""The plant's fronts: which files a board shows, and what is in them at each of the sensor's updates."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.plant import Board
    from tests.lab.sense import Truth

WIDTH = 20  # a value padded with line breaks: `cat` and int() both drop them
LATE_S = 2.0  # the fault "late" misses updates for so long


class Cell:
    """One value in a file that is written in place."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def put(self, value: int) -> None:
        os.pwrite(self._fd, str(value).encode().ljust(WIDTH, b"\n"), 0)


class Sampled:
    """A sensor with a refresh: registers are replaced at every multiple of it, by the front's `write`."""

    def __init__(self, board: Board, truth: Truth | None = None) -> None:
        self.board, self._truth = board, truth
        self.k, self.u = board.sensor.period(time.monotonic()), board.sensor.u
        self.lay()
        self.update(first=True)

    @property
    def due(self) -> float:
        return (self.k + 1) * self.board.sensor.u + self.board.sensor.phase

    def update(self, first: bool = False) -> None:
        sensor = self.board.sensor
        if sensor.u != self.u:  # somebody set the sensor anew: another grid
            self.u, self.k = sensor.u, sensor.period(time.monotonic())
            self.announce()
        self.k = max(sensor.period(time.monotonic()), self.k + (not first))
        self.fault(self.board.fault)
        if self.board.fault == "stuck" or (self.board.fault == "late" and math.floor(time.monotonic() / LATE_S) % 2):
            return
        for rail, share in self.board.rails.items():
            millivolt, milliampere = sensor.registers(_Share(self._truth or self.board, share), self.k)
            self.write(rail, millivolt, 0 if self.board.fault == "zero" else milliampere)

    def lay(self) -> None:
        """Make the files."""
        raise NotImplementedError

    def write(self, rail: str, millivolt: int, milliampere: int) -> None:
        raise NotImplementedError

    def fault(self, name: str) -> None:
        """Files that vanish; nothing where a front cannot."""

    def announce(self) -> None:
        """Say the refresh where the driver does."""


class Hwmon(Sampled):
    """INA3221 as its hwmon driver shows it."""

    def lay(self) -> None:
        folder = self.board.root / "sys/class/hwmon/hwmon1"
        self.folder, self.cells = folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        sensor = self.board.sensor
        (folder / "name").write_text("ina3221\n")
        (folder / "samples").write_text("512\n")
        self.announce()
        for number, rail in enumerate(self.board.rails, 1):
            (folder / f"in{number}_label").write_text(f"{rail}\n")
            (folder / f"shunt{number}_resistor").write_text(f"{round(sensor.shunt_ohm * 1e6)}\n")
            (folder / f"in{number + 3}_input").write_text("9999\n")  # shunt voltage, uV: not a rail
            self.cells[rail] = Cell(folder / f"in{number}_input"), Cell(folder / f"curr{number}_input")
        (folder / "in7_label").write_text("sum of shunt voltages\n")
        (folder / "in7_input").write_text("9999\n")

    def announce(self) -> None:
        (self.folder / "update_interval").write_text(f"{round(self.board.sensor.u * 1000)}\n")

    def write(self, rail: str, millivolt: int, milliampere: int) -> None:
        volt, ampere = self.cells[rail]
        volt.put(millivolt)
        ampere.put(milliampere)

    def fault(self, name: str) -> None:
        place = self.board.root / ("unbound" if name == "absent" else "sys/class/hwmon")
        wanted = place / ("hwmon7" if name == "renumber" else "hwmon1")
        if wanted != self.folder:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            self.folder = self.folder.rename(wanted)


class Iio(Sampled):
    """INA3221 as the iio driver of JetPack 4 shows it: power in mW."""

    FOLDER = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"

    def lay(self) -> None:
        folder, self.cells = self.board.root / self.FOLDER, {}
        folder.mkdir(parents=True, exist_ok=True)
        for number, rail in enumerate(self.board.rails):
            (folder / f"rail_name_{number}").write_text(f"{rail}\n")
            self.cells[rail] = Cell(folder / f"in_power{number}_input")

    def write(self, rail: str, millivolt: int, milliampere: int) -> None:
        self.cells[rail].put(round(millivolt * milliampere / 1000))


class Pmic(Sampled):
    """`vcgencmd pmic_read_adc` of a Raspberry Pi 5; EXT5V has no current."""

    def lay(self) -> None:
        self.path, self.values = self.board.root / "edge-fake/pmic", {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        program = self.board.root / "usr/bin/vcgencmd"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && exec cat "{self.path}"\nexit 255\n')
        program.chmod(0o755)

    def write(self, rail: str, millivolt: int, milliampere: int) -> None:
        self.values[rail] = millivolt / 1000, milliampere / 1000
        lines = [f" {name}_A current({i})={ampere:.8f}A" for i, (name, (_, ampere)) in enumerate(self.values.items())]
        lines += [f" {name}_V volt({i})={volt:.8f}V" for i, (name, (volt, _)) in enumerate(self.values.items(), len(lines))]
        partial = self.path.with_suffix(".partial")
        partial.write_text("\n".join([*lines, " EXT5V_V volt(24)=5.12345678V", " BATT_V volt(25)=0.00000000V"]) + "\n")
        partial.replace(self.path)


class Rapl:
    """Package counter of powercap, with its duplicate and its parts beside it."""

    def __init__(self, board: Board, truth: Truth | None = None) -> None:
        self.board, self._truth, self.due, zones = board, truth, 0.0, board.root / "sys/class/powercap"
        for number, rail in enumerate(board.rails):
            zone = zones / f"intel-rapl:{number}"
            self.cell = Cell(zone / "energy_uj")
            self._about(zone, rail)
        self._about(zones / "intel-rapl:0:0", "core")
        self._about(zones / "intel-rapl-mmio:0", next(iter(board.rails)))
        for other in ("intel-rapl:0:0", "intel-rapl-mmio:0"):
            (zones / other / "energy_uj").write_text("123\n")
        self.update()

    def _about(self, zone: Path, name: str) -> None:
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{self.board.counter.range_uj}\n")

    def update(self) -> None:
        now = time.monotonic()
        self.due = now + self.board.counter.u
        if self.board.fault != "stuck":
            self.cell.put(self.board.counter.micro_joules(self._truth or self.board, now))


class _Share:
    """The part of a board's power that one rail carries."""

    def __init__(self, truth: Truth, share: float) -> None:
        self._truth, self._share = truth, share

    def power(self, t: float) -> float:
        return self._share * self._truth.power(t)

    def energy(self, t: float) -> float:
        return self._share * self._truth.energy(t)


FRONTS: dict[str, Any] = {"hwmon": Hwmon, "iio": Iio, "pmic": Pmic, "rapl": Rapl}
