"""A board whose power follows the work that is really done: rest, and so many watts for each core that other processes keep busy.

The kernel counts their CPU time, so the truth does not depend on how often anybody looks.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def children(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    except OSError:  # it has just ended
        pass
    return found


class CpuClock:
    """Seconds of CPU time of all processes below `pid` but this one; what ended ones used stays counted."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._used: dict[tuple[int, str], float] = {}

    def read(self) -> float:
        """Seconds so far."""
        for pid in children(self.pid):
            if pid == os.getpid():
                continue
            try:
                threads = Path(f"/proc/{pid}/task").iterdir()
                for thread in threads:
                    self._used[pid, thread.name] = int((thread / "schedstat").read_text().split()[0]) / 1e9
            except (OSError, ValueError):
                continue
        return sum(self._used.values())


class CpuTruth:
    """Power at rest plus `watts` for each second of CPU time in a second, by the moments that were looked at."""

    def __init__(self, idle_w: float, watts: float, log: Path) -> None:
        self.idle_w, self.watts, self.log = idle_w, watts, log
        self.t: list[float] = []
        self.used: list[float] = []

    def look(self, t: float, used: float) -> None:
        """The plant's end: one more moment, also for the parent to read."""
        self.t.append(t)
        self.used.append(used)
        with self.log.open("a") as stream:
            stream.write(f"{t:.6f} {used:.9f}\n")

    def load(self) -> CpuTruth:
        """The parent's end: all moments so far."""
        rows = np.loadtxt(self.log)
        self.t, self.used = rows[:, 0].tolist(), rows[:, 1].tolist()
        return self

    def busy(self, a: float, b: float) -> float:
        """Seconds of CPU time in [a, b]."""
        first, last = np.interp([a, b], self.t, self.used)
        return float(last - first)

    def energy(self, t: float) -> float:
        return self.idle_w * t + self.watts * float(np.interp(t, self.t[-200:], self.used[-200:]))

    def power(self, t: float) -> float:
        return (self.energy(t) - self.energy(t - 0.01)) / 0.01
