"""A meter that a command reads: it prints a line a reading, for as long as it runs.

A line is `watts` or `watts joules`. The words are run as they are, without a shell.
"""

from __future__ import annotations

import math
import os
import selectors
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from toolchain.device.meters import Readings
from toolchain.device.meters.host_clock import stamped
from toolchain.device.session import AgentSession
from toolchain.errors import UsageError

LINE_LIMIT = 4096


class CommandMeter:
    """Runs the command while a repeat runs, and stamps its lines as they come."""

    kind, own_clock, refresh_s = "command", False, 1.0

    def __init__(self, text: str) -> None:
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise UsageError("the meter's command cannot be read", got=f"{text!r}: {error}") from error
        if not self.words or shutil.which(self.words[0]) is None:
            raise UsageError("the meter's command is not there", got=repr(text))

    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "command": self.words[0]}

    def running(self, session: AgentSession) -> AbstractContextManager[Readings]:
        return stamped(session, self._take)

    def _take(self, keep: Callable[..., None], stop: threading.Event) -> None:
        with subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            try:
                self._lines(process.stdout.fileno(), keep, stop)
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _lines(self, descriptor: int, keep: Callable[..., None], stop: threading.Event) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while not stop.is_set():
                if not selector.select(0.2):
                    continue
                now, block = time.time(), os.read(descriptor, 1 << 14)
                if not block:
                    raise ValueError("the meter's command has ended")
                *lines, rest = (rest + block).split(b"\n")
                if len(rest) > LINE_LIMIT:
                    raise ValueError("the meter's command prints no lines")
                for line in lines:
                    keep(now, *numbers(line))


def numbers(line: bytes) -> tuple[float, ...]:
    """`watts` or `watts joules`; a line that is neither is a gap."""
    try:
        values = [float(word) for word in line.replace(b",", b" ").split()]
    except ValueError:
        return (math.nan,)
    return tuple(values) if len(values) in (1, 2) and all(math.isfinite(value) for value in values) else (math.nan,)
