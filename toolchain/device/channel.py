"""One process on a device: bytes in, bytes out, and how it ended. LocalChannel here; the SSH one is in remote.py."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Protocol

from toolchain.errors import ConnectionLostError, RemoteTimeoutError, RuntimeMissingError

ONE_LINER = (
    "import sys;exec(sys.stdin.buffer.read(int(sys.argv[1])))"  # the loader follows on stdin, so no data is in the command
)
STDERR_TAIL = 4000


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status, or the signal that killed it, or the link was lost before either was known."""

    status: int | None
    signal: int | None
    stderr: str
    link_lost: str | None = None


class Channel(Protocol):
    """What the session needs of a process."""

    def read(self, timeout_s: float) -> bytes:
        """Some bytes of its stdout; b"" at the end. Raises RemoteTimeoutError."""
        ...

    def write(self, data: bytes, timeout_s: float) -> None:
        """All of `data` to its stdin. Raises RemoteTimeoutError, ConnectionLostError."""
        ...

    def finish(self, timeout_s: float) -> Ended:
        """Close its stdin, wait for its end, kill it after `timeout_s`."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class LocalChannel:
    """A child process of this one."""

    def __init__(self, python: str, loader_size: int) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _release
        try:
            self._process = subprocess.Popen(
                [os.path.abspath(python) if "/" in python else python, "-c", ONE_LINER, str(loader_size)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0, cwd="/",
            )  # fmt: skip
        except OSError as error:
            self._stderr.close()
            raise RuntimeMissingError("cannot start Python", got=f"{shlex.quote(python)}: {error}") from error
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def read(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        if not self._selector.select(timeout_s):
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

    def finish(self, timeout_s: float) -> Ended:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        stderr = self._tail()
        self._release()
        return Ended(status, None, stderr) if status >= 0 else Ended(None, -status, stderr)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._release()

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
