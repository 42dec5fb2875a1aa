"""One process on a device: bytes in, bytes out, and how it ended. LocalChannel here; the SSH one is in remote.py."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from toolchain.device import stop
from toolchain.errors import ConnectionLostError, RemoteTimeoutError, RuntimeMissingError

# The loader follows on stdin, so no data is in the command; a buffer of one byte reads nothing of what comes behind it.
ONE_LINER = "import io,sys;exec(io.BufferedReader(io.FileIO(0,closefd=False),1).read(int(sys.argv[1])))"
STDERR_TAIL = 4000
KILL_S = 5.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status, or the signal that killed it, or the link was lost before either was known."""

    status: int | None
    signal: int | None
    stderr: str
    link_lost: str | None = None


class Channel(Protocol):
    """What the session needs of a process. `quiet`: raw bytes are being sent, nothing may come between them."""

    quiet: bool

    def read(self, timeout_s: float) -> bytes:
        """Some bytes of its stdout; b"" at the end. Raises RemoteTimeoutError."""
        ...

    def write(self, data: bytes, timeout_s: float) -> None:
        """All of `data` to its stdin. Raises RemoteTimeoutError, ConnectionLostError."""
        ...

    def keep(self, every_s: float) -> None:
        """Send an empty line every so many seconds, where the process could not see otherwise that we are gone."""
        ...

    def finish(self, timeout_s: float) -> Ended:
        """Close its stdin, wait for its end, kill it after `timeout_s`."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class LocalChannel:
    """A child process of this one, in a session of its own: Ctrl-C is for us, and we end it."""

    quiet = False

    def __init__(self, python: str, loader_size: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _release
        try:
            self._process = subprocess.Popen(
                [os.path.abspath(python) if "/" in python else python, "-c", ONE_LINER, str(loader_size)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._stderr.close()
            raise RuntimeMissingError("cannot start Python", got=f"{shlex.quote(python)}: {error}") from error
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def read(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not stop.wait(self._selector.select, timeout_s):
            raise RemoteTimeoutError("no answer in time", got=f"{timeout_s:g} s")
        return self._process.stdout.read(1 << 16) or b""

    def write(self, data: bytes, timeout_s: float) -> None:
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout_s
        view = memoryview(data)
        with selectors.DefaultSelector() as writable:
            writable.register(self._process.stdin, selectors.EVENT_WRITE)
            while view:
                if not writable.select(max(0.0, deadline - time.monotonic())):
                    raise RemoteTimeoutError("the process does not read", got=f"{timeout_s:g} s")
                try:
                    sent = self._process.stdin.write(view[:4096])  # never more than a pipe takes without blocking
                except OSError as error:
                    raise ConnectionLostError("the process has closed its input", got=str(error)) from error
                view = view[sent or 0 :]

    def keep(self, every_s: float) -> None:
        pass  # the kernel closes its stdin when we end

    def finish(self, timeout_s: float) -> Ended:
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._wait(timeout_s)
        if status is None:
            self._process.kill()
            status = self._wait(KILL_S)
        stderr = self._tail()
        self._release()
        if status is None:
            return Ended(None, None, stderr, "the process cannot be ended")
        return Ended(status, None, stderr) if status >= 0 else Ended(None, -status, f"{stderr}\n{_oom_kills()}")

    def kill(self) -> None:
        self._process.kill()
        self._wait(KILL_S)
        self._release()

    def _wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None  # in a driver's hands; not even a kill reaches it

    def _tail(self) -> str:
        if self._stderr.closed:
            return ""
        size = self._stderr.seek(0, 2)
        self._stderr.seek(max(0, size - STDERR_TAIL))
        return self._stderr.read().decode("utf-8", "replace")

    def _release(self) -> None:
        self._selector.close()
        self._stderr.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _oom_kills() -> str:
    """The kernel's line on how often it killed for want of memory, as the wrapper prints it on a remote machine."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return ""
    return "".join(line for line in lines if line.startswith("oom_kill"))
