"""Tier B: devices behind wires that can be hurt (wire.py). Each is a box; the test itself runs inside the lab's network."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab.box import Box, Making, can_make_boxes, start_box, stop_box
from tests.lab.require import cannot, needs_programs
from tests.lab.sshd import client_settings

WIRE = Path(__file__).with_name("wire.py")
CLONE_NEWNET = 0x40000000
PORT = 2222
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
            command = [sys.executable, str(WIRE), str(count)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream)
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


class Network:
    """Devices `dev` (also `dev1`), `dev2`, ...

    Use as a context manager: inside it this thread, and every thread and process that it starts, is in the lab's network and can
    reach nothing else.
    """

    def __init__(self, folder: Path, count: int, making: Making) -> None:
        self.folder, self._count, self._making = folder, count, making
        self.devices: list[NetDevice] = []

    @property
    def config(self) -> Path:
        """ssh config with a Host for each device."""
        return self.folder / "ssh_config"

    def __getitem__(self, number: int) -> NetDevice:
        return self.devices[number]

    def __enter__(self) -> Network:
        can_make_networks()
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            wires = Wires(self._count, self.folder / "wire.log")
            stack.callback(wires.close)
            for number, namespace in enumerate(wires.namespaces["devices"], 1):
                device = self._start(wires, number, namespace)
                stack.callback(stop_box, device)
                self.devices.append(device)
            hosts = [
                client_settings(device.folder, device.address, device.port, "root", "dev dev1" if number == 1 else f"dev{number}")
                for number, device in enumerate(self.devices, 1)
            ]
            self.config.write_text("".join(hosts))
            stack.enter_context(inside(wires.namespaces["client"]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.devices:
            device.thaw()
        self._stack.close()

    def _start(self, wires: Wires, number: int, namespace: str) -> NetDevice:
        making = replace(self._making, network=namespace, name=f"edge-box-{number}")
        box = start_box(self.folder / f"d{number}", making, address=f"127.231.{number}.2", port=PORT, tier="B")
        device = NetDevice(box.folder, box.address, box.port, box.process, box.root)
        device.wires, device.number = wires, number
        return device


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


def can_make_networks() -> None:
    """Skip, or fail, where that is impossible."""
    can_make_boxes("B")
    needs_programs("B", ip="iproute2")
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        cannot("B", f"{TUN} cannot be opened: {error.strerror}")
