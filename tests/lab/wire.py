"""Network of the lab, as one program: a namespace for the client, one for each device, and a wire between them that can be hurt.

    python tests/lab/wire.py N

Every wire is a pair of TAP devices with this program between them, which may delay, lose, slow down or swallow frames. It needs
root and /dev/net/tun, but no packet filter and no traffic control in the kernel. It changes nothing outside: the namespaces have
no names, they are held open by this program and by who is inside, and end with them.

Addresses are 127.231.I.1 (client) and 127.231.I.2 (device I), made routable inside the namespaces only. Anywhere else they are
loopback: dialled by mistake from outside the lab, they are refused at once and never leave the machine.

Standard output: one JSON line when all is up, {"client": PATH, "devices": [PATH, ...]} (paths of the namespaces), then an answer
to each JSON line on standard input:
    {"wire": I, "set": {...}}   settings of both directions; see Settings
    {"wire": I}                 counters of both directions
The end of standard input ends it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

CLONE_NEWNET, TUNSETIFF, IFF_TAP_NO_PI = 0x40000000, 0x400454CA, 0x1002
ARP = b"\x08\x06"
QUEUE_BYTES = 16 << 10  # what a slow link holds back before it drops, beside `queue_ms`
COUNTS = ("arrived", "delivered", "bytes", "delayed", "lost", "queue", "hole", "cut", "error")  # frames, but for `bytes`
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Settings:
    """One direction.

    Attributes:
        delay_ms, jitter_ms: of each frame; the jitter is uniform, ±, and keeps the order.
        loss: probability.
        rate_kbit: 0 is unlimited; beyond it frames queue for up to `queue_ms`.
        hole: swallow everything but address resolution: the other end seems to be there and never answers.
        cut: swallow everything, also what is under way.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_kbit: float = 0.0
    queue_ms: float = 500.0
    hole: bool = False
    cut: bool = False


@dataclass
class Direction:
    """Frames from one TAP device to the other."""

    out: int
    rng: random.Random
    settings: Settings = field(default_factory=Settings)
    free_at: float = 0.0  # when the line has sent what was accepted
    last_at: float = 0.0  # when the last accepted frame arrives
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("arrived", "delivered", "bytes", "delayed", "lost", "queue", "hole", "cut", "error"), 0
        )
    )

    def swallowed(self, frame: bytes) -> bool:
        for cause in ("cut", "hole"):
            if getattr(self.settings, cause) and not (cause == "hole" and frame[12:14] == ARP):
                self.counts[cause] += 1
                return True
        return False

    def accept(self, frame: bytes, now: float) -> float | None:
        """When the frame arrives at the other end; None where it is lost."""
        self.counts["arrived"] += 1
        if self.swallowed(frame):
            return None
        if self.settings.loss and self.rng.random() < self.settings.loss:
            self.counts["lost"] += 1
            return None
        sent = now
        if self.settings.rate_kbit:
            bytes_a_second = self.settings.rate_kbit * 125
            sent = max(now, self.free_at) + len(frame) / bytes_a_second
            if sent - now > max(self.settings.queue_ms / 1000, QUEUE_BYTES / bytes_a_second):
                self.counts["queue"] += 1
                return None
            self.free_at = sent
        jitter = self.rng.uniform(-1, 1) * self.settings.jitter_ms
        self.last_at = max(self.last_at, sent + max(0.0, self.settings.delay_ms + jitter) / 1000)
        self.counts["delayed"] += self.last_at > now
        return self.last_at

    def deliver(self, frame: bytes) -> None:
        if self.swallowed(frame):
            return
        try:
            os.write(self.out, frame)
        except OSError:
            self.counts["error"] += 1
            return
        self.counts["delivered"] += 1
        self.counts["bytes"] += len(frame)


def enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def new_namespace() -> int:
    """A fresh network namespace, which is entered; its descriptor keeps it."""
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("ip link set lo up")
    run("ip route del local 127.0.0.0/8 dev lo table local")  # only 127.0.0.1 is this host itself
    run("ip address del 127.0.0.1/8 dev lo")
    run("ip address add 127.0.0.1/32 dev lo")
    for conf in ("all", "default"):
        sysctl(f"ipv4/conf/{conf}/route_localnet", 1)
        sysctl(f"ipv6/conf/{conf}/disable_ipv6", 1)
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def sysctl(name: str, value: int) -> None:
    path = f"/proc/sys/net/{name}"
    if os.path.exists(path):
        with open(path, "w") as stream:
            stream.write(str(value))


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, stdout=sys.stderr)


def tap(name: str, address: str) -> int:
    """A TAP device in the namespace we are in; returns its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    run(f"ip address add {address} dev {name}")
    for setting, value in (("base_reachable_time_ms", 1000), ("delay_first_probe_time", 1), ("retrans_time_ms", 500)):
        sysctl(f"ipv4/neigh/{name}/{setting}", value)  # that the other end is gone is noticed within about 4 s, not 40
    run(f"ip link set {name} up")
    return descriptor


class Wires:
    """All wires, and the loop that serves them."""

    def __init__(self, count: int) -> None:
        rng = random.Random(1)
        self.directions: dict[int, Direction] = {}
        self.wires: dict[int, tuple[Direction, Direction]] = {}
        self.namespaces = [new_namespace()]
        for number in range(1, count + 1):
            self.namespaces.append(new_namespace())
            there = tap("eth0", f"127.231.{number}.2/24")
            enter(self.namespaces[0])
            here = tap(f"dev{number}", f"127.231.{number}.1/24")
            to_device, from_device = Direction(there, rng), Direction(here, rng)
            self.directions |= {here: to_device, there: from_device}
            self.wires[number] = to_device, from_device
        self._under_way: list[tuple[float, int, Direction, bytes]] = []
        self._sequence = 0

    def serve(self) -> None:
        poll = select.epoll()
        for descriptor in (0, *self.directions):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            wait = self._under_way[0][0] - time.monotonic() if self._under_way else -1.0
            for descriptor, _ in poll.poll(max(0.0, wait) if self._under_way else -1):
                if descriptor == 0:
                    if not self._command():
                        return
                else:
                    self._read(descriptor)
            self._deliver()

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, direction, frame = heapq.heappop(self._under_way)
            direction.deliver(frame)

    def _read(self, descriptor: int) -> None:
        direction = self.directions[descriptor]
        for _ in range(64):
            try:
                frame = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                return
            now = time.monotonic()
            at = direction.accept(frame, now)
            if at is not None:
                self._sequence += 1
                heapq.heappush(self._under_way, (at, self._sequence, direction, frame))

    def _command(self) -> bool:
        line = sys.stdin.buffer.readline()
        if not line:
            return False
        asked = json.loads(line)
        to_device, from_device = self.wires[asked["wire"]]
        for direction in (to_device, from_device):
            for key, value in asked.get("set", {}).items():
                if not hasattr(direction.settings, key):
                    raise KeyError(key)
                setattr(direction.settings, key, value)
        answer = {"to_device": to_device.counts, "from_device": from_device.counts}
        print(json.dumps(answer), flush=True)
        return True


def main() -> None:
    wires = Wires(int(sys.argv[1]))
    paths = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in wires.namespaces]
    print(json.dumps({"client": paths[0], "devices": paths[1:]}), flush=True)
    wires.serve()


if __name__ == "__main__":
    main()
