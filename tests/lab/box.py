"""Tier A+: a device with its own file system, processes and limits, made of this machine by namespaces (box.sh)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.device import Device, descendants, free_port, send, start, wait_for_server
from tests.lab.require import cannot, needs_linux, needs_programs, needs_root
from tests.lab.sshd import find_sshd, write_settings

BOX = Path(__file__).with_name("box.sh")
HOME = "/home/dev"  # the developer's own, with its shell settings, is not a device's
PROJECT = Path(__file__).parents[2]


class Box(Device):
    """Its processes are in a pid namespace: pids that the agent tells are not this machine's; `kill` and `processes` use ours."""

    def _inside(self) -> list[int]:
        for pid in descendants(self.process.pid):
            if _is_first(pid):
                return [pid, *descendants(pid)]
        return []

    def sessions(self) -> list[int]:
        """Pids of everything but the ssh server itself, on this machine."""
        return self._inside()[1:]

    def crash(self) -> None:
        """All its processes die at once; as no power cut, its kernel closes the connections."""
        send(signal.SIGKILL, self._inside()[:1])
        self.process.wait(15)


@dataclass(frozen=True)
class Making:
    """What a box is made with.

    Attributes:
        disk: size of everything it may write.
        memory, cpus: limits; beyond `memory` the kernel kills.
        fake: tree laid over the root; its `sys` is bound over /sys, so that changes from outside are seen at once.
        network: path of a network namespace to live in.
        lower: root folder it is made of.
        more: further words of box.sh.
        environment: of its sessions.
    """

    disk: str = "256m"
    memory: str | None = None
    cpus: float | None = None
    fake: Path | None = None
    network: str | None = None
    name: str = "edge-box"  # what it calls itself
    lower: Path = Path("/")
    more: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def start_box(
    folder: Path, making: Making, *, address: str = "127.0.0.1", port: int = 0, host: str = "dev", tier: str = "A+"
) -> Box:
    """Start one and wait for its ssh server; skips the test, or fails it, where that is impossible."""
    can_make_boxes(tier)
    port, program = port or free_port(address), find_sshd(tier)
    if making.lower != Path("/"):
        program = Path("/usr/sbin/sshd")
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "HOME": HOME, "ORT_DISABLE_TELEMETRY": "1", **making.environment}
    settings = "SetEnv " + " ".join(f"{key}={value}" for key, value in environment.items())
    write_settings(folder, address, port, "root", settings)
    words = {"DISK": making.disk, "NAME": making.name, "LOWER": str(making.lower), **making.more}
    words |= {"MEMORY": making.memory or "", "CPUS": str(making.cpus or ""), "NETWORK": making.network or ""}
    words |= {"FAKE": str(making.fake or "")}
    if making.lower == Path("/"):
        words["BIND"] = "\n".join(_elsewhere())
    command = [BOX, folder, program, "-D", "-e", "-f", folder / "sshd_config"]
    with (folder / "log").open("wb") as log:
        clean = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", **words}
        process = start(*command, end_by="TERM", stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean)
    box = Box(folder, address, port, process)
    wait_for_server(box, 30)
    return box


def _is_first(pid: int) -> bool:
    """Whether the process is number 1 of a pid namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = status.partition("NSpid:")[2].split("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def can_make_boxes(tier: str) -> None:
    """Skip, or fail, where namespaces or limits cannot be made."""
    needs_linux(tier)
    needs_root(tier)
    needs_programs(tier, unshare="util-linux", nsenter="util-linux", setpriv="util-linux", mount="mount")
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    if tried.returncode:
        cannot(tier, f"namespaces cannot be made: {tried.stderr.strip()}")


def _elsewhere() -> list[str]:
    """Folders of Python and the project which lie on another mount than /: an overlay of / does not show those."""
    wanted = {PROJECT, Path(sys.prefix), Path(sys.base_prefix)}
    return [str(path) for path in sorted(wanted) if path.stat().st_dev != Path("/").stat().st_dev]
