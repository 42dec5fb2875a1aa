"""Tier B: devices behind wires that can be hurt (wire.py). Each is a box; the test itself runs inside the lab's network."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.box import Box, Making, can_make_boxes, start_box
from tests.lab.device import start
from tests.lab.require import cannot, needs_programs
from tests.lab.sshd import client_settings

if TYPE_CHECKING:
    from tests.lab.machine import Machine

WIRE = Path(__file__).with_name("wire.py")
CLONE_NEWNET = 0x40000000
PORT = 2222
PERFECT: dict[str, float | bool] = {"delay_ms": 0.0, "jitter_ms": 0.0, "loss": 0.0, "rate_kbit": 0.0, "cut": False, "hole": False}
TUN = Path("/dev/net/tun")
libc = ctypes.CDLL(None, use_errno=True)


class Wire:
    """The link to one device. Every change is in force when its function returns."""

    wires: Wires
    number: int

    def delay(self, round_trip_ms: float, jitter_ms: float = 0.0) -> None:
        """Half of it each way; the jitter, ± of each frame, keeps the order."""
        self.set(delay_ms=round_trip_ms / 2, jitter_ms=jitter_ms)

    def loss(self, probability: float) -> None:
        """Of each frame, in both directions."""
        self.set(loss=probability)

    def rate_kbit(self, rate: float) -> None:
        """In both directions; 0 is unlimited."""
        self.set(rate_kbit=rate)

    def cut(self) -> None:
        """Pull the cable: nothing passes, what was under way is lost, soon there is no route to the host."""
        self.set(cut=True)

    def heal(self) -> None:
        self.set(cut=False)

    def hole(self) -> None:
        """Silence: the host seems to be there, but all that is sent to or by it vanishes."""
        self.set(hole=True)

    def fill(self) -> None:
        self.set(hole=False)

    def set(self, **settings: float | bool) -> None:
        """Settings of wire.py by name, for both directions."""
        self.wires.command({"wire": self.number, "set": settings})

    def counts(self) -> dict[str, dict[str, int]]:
        """Frames by what became of them, for `to_device` and `from_device`: see wire.py."""
        return self.wires.command({"wire": self.number})

    def count(self, what: str) -> int:
        """Both directions together."""
        return sum(direction[what] for direction in self.counts().values())


class Wires:
    """The running wire.py."""

    def __init__(self, count: int, log: Path) -> None:
        self._lock = threading.Lock()
        with log.open("wb") as stream:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = start(sys.executable, WIRE, str(count), **pipes, stderr=stream)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            self.close()
            cannot("B", f"the network cannot be made: {log.read_text().strip()}")
        self.namespaces = json.loads(first)

    def command(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(10)


class NetDevice(Box, Wire):
    """A box at the other end of a wire."""


Start = Callable[[Path, str, str, int], "NetDevice | Machine"]  # folder, namespace, address, port -> a device that is up


class Network:
    """Devices `dev` (also `dev1`), `dev2`, ..., each behind its wire. Use as a context manager.

    Attributes:
        folder: holds everything, and `ssh_config` with a Host for each device.
    """

    def __init__(self, folder: Path, count: int, start: Start, tier: str = "B") -> None:
        self.folder, self._count, self._start, self._tier = folder, count, start, tier
        self.devices: list[Any] = []

    @property
    def config(self) -> Path:
        """ssh config with a Host for each device."""
        return self.folder / "ssh_config"

    def __getitem__(self, number: int) -> Any:
        return self.devices[number]

    def __enter__(self) -> Network:
        can_make_networks(self._tier)
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            self._wires = Wires(self._count, self.folder / "wire.log")
            stack.callback(self._wires.close)
            hosts = []
            for number, namespace in enumerate(self._wires.namespaces["devices"], 1):
                device = self._start(self.folder / f"d{number}", namespace, f"127.231.{number}.2", PORT)
                stack.callback(device.end)
                device.wires, device.number = self._wires, number
                self.devices.append(device)
                names = "dev dev1" if number == 1 else f"dev{number}"
                hosts.append(client_settings(device.folder, device.address, device.port, "root", names))
            self.config.write_text("".join(hosts))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def entered(self) -> AbstractContextManager[None]:
        """Meanwhile this thread, and every thread and process it starts, is in the lab's network and can reach nothing else."""
        return inside(self._wires.namespaces["client"])


def boxes(making: Making) -> Start:
    """Network's devices are boxes."""

    def start(folder: Path, namespace: str, address: str, port: int) -> NetDevice:
        named = replace(making, network=namespace, name=f"{making.name}-{folder.name[1:]}")
        box = start_box(folder, named, address=address, port=port, tier="B")
        return NetDevice(box.folder, box.address, box.port, box.process, box.root)

    return start


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts meanwhile, in that network namespace."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(namespace, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(outside)
    finally:
        os.close(outside)


def _enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def can_make_networks(tier: str = "B") -> None:
    """Skip, or fail, where that is impossible."""
    can_make_boxes(tier)
    needs_programs(tier, ip="iproute2")
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        cannot(tier, f"{TUN} cannot be opened: {error.strerror}")
