"""Reach a device: this machine itself, or another over SSH. The only file that knows SSH.

No text that came from outside is ever part of a remote command: the command is fixed words plus a checked Python path, and
everything else travels on the process's standard input.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Protocol

from toolchain.device.agent_package import agent_package
from toolchain.device.channel import LocalChannel
from toolchain.device.host import HostSpec, parse_host
from toolchain.device.session import CACHE, START_S, AgentSession
from toolchain.errors import UsageError

PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
FOLDER = re.compile(r"(~/|/)[^\x00-\x1f]*")

__all__ = ["Device", "HostSpec", "LocalDevice", "connect", "parse_host"]


class Device(Protocol):
    """A machine engines can run on."""

    name: str

    def session(self) -> AgentSession:
        """Start one agent process there."""
        ...

    def close(self) -> None:
        """End the connection and what still runs on it."""
        ...

    def __enter__(self) -> Device: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class LocalDevice:
    """This machine."""

    name = "local"

    def __init__(self, python: str, cache: str, start_s: float) -> None:
        self._python, self._cache, self._start_s = python, cache, start_s

    def session(self) -> AgentSession:
        channel = LocalChannel(self._python, len(agent_package().loader))
        return AgentSession(channel, self.name, local=True, cache=self._cache, start_s=self._start_s)

    def close(self) -> None:
        pass

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def connect(
    host: str, *, python: str | None = None, cache: str | None = None, ssh_config: Path | None = None, start_s: float = START_S
) -> Device:
    """A device to open sessions on. Use as a context manager.

    Args:
        host: `local`, `user@addr[:port]` or a Host of the ssh config.
        python: command or path of Python there; default `python3`, and for `local` the running interpreter.
        cache: the agent's folder there; default $EDGE_DEVICE_CACHE or ~/.cache/edge-toolchain.
        ssh_config: ssh config file instead of the user's own; default $EDGE_SSH_CONFIG.
        start_s: longest wait for the agent to start.

    Raises:
        UsageError: not a host, or not a Python path.
        UnreachableError, HostKeyError, AuthenticationError, RemoteTimeoutError, ConnectionLostError
    """
    spec = parse_host(host)
    cache = cache or os.environ.get("EDGE_DEVICE_CACHE") or CACHE
    python = python or (sys.executable if spec.local else "python3")
    if not spec.local and not PYTHON.fullmatch(python):
        raise UsageError("not a Python command", got=repr(python), fix="a name such as python3 or a path without blanks")
    if not FOLDER.fullmatch(cache):
        raise UsageError("not a folder for the agent", got=repr(cache), fix="an absolute path, or one from ~/")
    if spec.local:
        return LocalDevice(python, cache, start_s)
    raise UsageError("SSH is not there yet", got=host)
