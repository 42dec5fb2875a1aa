"""What every tier of the lab gives a test: a device that is logged in to by the name `dev`, and can be frozen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Device:
    """A device under test.

    Attributes:
        folder: holds its keys, settings and log.
        address, port: of its ssh server.
        process: the child that is the device: when it ends, so does everything it started.
        root: the device's own root folder as its agent should see it ($EDGE_DEVICE_ROOT).
    """

    folder: Path
    address: str
    port: int
    process: subprocess.Popen[bytes]
    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """ssh config with the Host `dev`."""
        return self.folder / "ssh_config"

    def log(self) -> str:
        """What its ssh server wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A shell command there, by the system's own ssh client; a death by a signal is 128 + its number."""
        words = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", "dev", f"{command}\nexit $?"]
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s)

    def client(self, name: str, **changes: str) -> Path:
        """Another client config: the usual one with some lines changed."""
        lines = self.config.read_text().splitlines()
        kept = [line for line in lines if line.split()[0] not in changes]
        path = self.folder / name
        path.write_text("\n".join([*kept, *(f"  {key} {value}" for key, value in changes.items())]) + "\n")
        return path

    def processes(self) -> dict[int, str]:
        """Pid and name of everything that runs on the device, as this machine numbers them."""
        return {pid: name for pid in self._inside() if (name := process_name(pid))}

    def freeze(self) -> None:
        """Stop everything on it: its connections stay open, nothing answers."""
        stopped: set[int] = set()
        while new := set(self._inside()) - stopped:  # until none was started meanwhile
            send(signal.SIGSTOP, new)
            stopped |= new

    def thaw(self) -> None:
        send(signal.SIGCONT, self._inside())

    def kill(self, name: str) -> list[int]:
        """Kill the processes of this name, as the kernel does when memory runs out; returns their pids on this machine."""
        pids = [pid for pid, running in self.processes().items() if running.startswith(name)]
        send(signal.SIGKILL, pids)
        return pids

    def end(self) -> None:
        """End it, politely: its process ends what it started."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def _inside(self) -> list[int]:
        return [self.process.pid, *descendants(self.process.pid)]


STARTER = ThreadPoolExecutor(
    1, "lab"
)  # the kernel ends a child with the thread that started it: this one lives as long as the tests
STARTER.submit(threading.get_ident).result()  # begun now, so that it is in no network of the lab


def start(*command: str | Path, end_by: str = "KILL", **options: Any) -> subprocess.Popen[bytes]:
    """A child that ends with the test runner, also when that is killed; never in the lab's network unless it enters it."""
    words = ["setpriv", "--pdeathsig", end_by, *map(str, command)]
    return STARTER.submit(subprocess.Popen, words, **options).result()


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for child in _children(pid):
        found += [child, *descendants(child)]
    return found


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from (int(child) for child in thread.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended


def process_name(pid: int) -> str | None:
    """Name of a running process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    if rest.split()[0] in "ZX":
        return None
    return _emulated_program(pid) if name.startswith("aarch64-binfmt") else name


def _emulated_program(pid: int) -> str | None:
    """Name of the program that an emulator runs; its words are: emulator, path, then the program's own."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Path(words[1].decode(errors="replace")).name if len(words) > 1 else None


def send(number: signal.Signals, pids: Iterator[int] | set[int] | list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


def wait_for_server(device: Device, seconds: float) -> None:
    """Until its ssh server listens.

    Raises:
        pytest's failure with the log, and the device's process ended.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and device.process.poll() is None:
        if "Server listening" in device.log():
            return
        time.sleep(0.02)
    device.end()
    pytest.fail(f"the device did not start:\n{device.log()}")
