"""Peak memory of this process over a block of code, not what it or its parent had before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(eq=False)
class Memory:
    """Resident memory, MB (10^6 bytes); of this process alone, not of those it starts.

    Attributes:
        before_mb: when the block began.
        peak_mb: the most until now; None where the system does not tell, with `why`.
    """

    before_mb: float | None = None
    peak_mb: float | None = None
    why: str | None = None


_open: list[Memory] = []  # blocks under way, for the main thread only


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """The peak of a block. Blocks may be nested: an outer one has at least the peaks of those in it.

    Linux keeps a process's peak (VmHWM) and sets it back to the present size when 5 is written to clear_refs (proc(5)).
    """
    memory = Memory()
    try:
        _credit()
        CLEAR_REFS.write_text("5")
        memory.before_mb = _status_mb("VmRSS")
        _open.append(memory)
    except OSError as error:
        memory.why = f"the system does not tell: {error}"
    try:
        yield memory
    finally:
        if memory.why is None:
            _credit()
            _open.remove(memory)


def _credit() -> None:
    """What was reached since the last reset, to all blocks under way."""
    peak_mb = _status_mb("VmHWM")
    for memory in _open:
        memory.peak_mb = max(memory.peak_mb or 0.0, peak_mb)


def _status_mb(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"no {key} in {STATUS}")
    return int(found[1]) * 1024 / 1e6
