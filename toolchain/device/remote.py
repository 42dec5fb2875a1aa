"""Reach a device: this machine itself, or another over SSH.

No text that came from outside is ever part of a remote command: the command is fixed words and a checked Python path, everything
else travels on the process's standard input. Only this file, login.py and ssh_channel.py know SSH.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from toolchain.device import login
from toolchain.device.agent_package import agent_package
from toolchain.device.channel import ONE_LINER
from toolchain.device.host import HostSpec, parse_host
from toolchain.device.login import open_link
from toolchain.device.loop import Loop, Timeouts
from toolchain.device.machine import Device, LocalDevice, starting
from toolchain.device.session import CACHE, START_S, AgentSession
from toolchain.device.ssh_channel import SshChannel, cause
from toolchain.errors import ConnectionLostError, DeviceError, UsageError

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Device", "HostSpec", "LocalDevice", "SshDevice", "connect", "parse_host"]

SESSIONS_PER_LINK = 8  # OpenSSH allows 10
CLOSE_S = 2.0
PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
FOLDER = re.compile(r"(~/|/)[^\x00-\x1f]*")
# A death by signal is told from a lost link (128 + signal), and one for want of memory from another by the kernel's own count.
WRAPPER = '"$@"; c=$?; [ $c -gt 128 ] && grep ^oom_kill /proc/vmstat >&2; exit $c'
_abandoned: dict[str, set[str]] = {}  # runs of this process whose link was lost: what they left on the host is ended


def connect(
    host: str, *, python: str | None = None, cache: str | None = None, root: str | None = None, ssh_config: Path | None = None,
    start_s: float = START_S,
) -> Device:  # fmt: skip
    """A device to open sessions on. Use as a context manager.

    Args:
        host: `local`, `user@addr[:port]` or a Host of the ssh config.
        python: command or path of Python there; default the one `toolchain doctor --install` made, else `python3`; for `local`
            the running interpreter.
        cache: the agent's folder there; default $EDGE_DEVICE_CACHE or ~/.cache/edge-toolchain.
        root: where the agent reads /sys, /proc and /etc there, for tests; default $EDGE_DEVICE_ROOT or /.
        ssh_config: ssh config file instead of the user's own; default $EDGE_SSH_CONFIG.
        start_s: longest wait for the agent to start.

    Raises:
        UsageError: not a host, not a Python path, or an ssh config that cannot be read.
        UnreachableError, HostKeyError, AuthenticationError, RemoteTimeoutError, ConnectionLostError
    """
    spec = parse_host(host)
    cache = cache or os.environ.get("EDGE_DEVICE_CACHE") or CACHE
    root = root or os.environ.get("EDGE_DEVICE_ROOT") or "/"
    own, python = python is None, python or (sys.executable if spec.local else "python3")
    if not spec.local and not PYTHON.fullmatch(python):
        raise UsageError("not a Python command", got=repr(python), fix="a name such as python3 or a path without blanks")
    if not FOLDER.fullmatch(cache):
        raise UsageError("not a folder for the agent", got=repr(cache), fix="an absolute path, or one from ~/")
    if not root.startswith("/") or not FOLDER.fullmatch(root):
        raise UsageError("not the root of a device's files", got=repr(root), fix="an absolute path")
    if spec.local:
        return LocalDevice(python, cache, start_s, root)
    config = ssh_config or (Path(os.environ["EDGE_SSH_CONFIG"]) if os.environ.get("EDGE_SSH_CONFIG") else None)
    return SshDevice(spec, python, cache, config, start_s, root, own=own)


class SshDevice:
    """A machine reached over SSH with the user's own keys, agent and config; all its sessions share one link or a few."""

    def __init__(
        self, spec: HostSpec, python: str, cache: str, config: Path | None, start_s: float, root: str = "/", own: bool = False
    ) -> None:  # fmt: skip
        self.name = spec.text
        self._spec, self._config, self._start_s = spec, config, start_s
        words = ["sh", "-c", WRAPPER, "edge", python, "-c", ONE_LINER, str(len(agent_package().loader))]
        self._command = " ".join(shlex.quote(word) for word in words)
        self._run = secrets.token_hex(16)
        ended = sorted(_abandoned.get(self.name, ()))
        self._order = {"cache": cache, "root": root, "run": self._run, "ended": ended, "venv": own}
        self._loop = Loop()
        self._links: list[asyncssh.SSHClientConnection] = []
        self._on_link = 0
        try:
            self._link()
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> SshDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def session(self) -> AgentSession:
        """Start one agent process there."""
        return self.sessions(1)[0]

    def sessions(self, count: int) -> list[AgentSession]:
        """Start several at once: they share the round trips."""
        with starting() as begun:
            while len(begun) < count:
                room = SESSIONS_PER_LINK - self._on_link
                if room == 0:
                    self._link()
                    continue
                for process in self._processes(min(room, count - len(begun))):
                    channel = SshChannel(self._loop, process)
                    begun.append(AgentSession(channel, self.name, local=False, order=self._order, start_s=self._start_s))
            for session in begun:
                session.greeted()
        _abandoned.pop(self.name, None)
        self._order["ended"] = []
        return begun

    def _processes(self, count: int) -> list[asyncssh.SSHClientProcess[bytes]]:
        """Up to `count` processes on the newest link, at least one: a server may allow fewer on a link than others do."""
        import asyncssh

        async def start() -> list[asyncssh.SSHClientProcess[bytes] | BaseException]:
            create = self._links[-1].create_process
            asked: list[Any] = [create(self._command, encoding=None, env={}) for _ in range(count)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

        try:
            found = self._loop.run(start(), login.CONNECT_S)
            opened = [one for one in found if isinstance(one, asyncssh.SSHClientProcess)]
            refused = [one for one in found if isinstance(one, BaseException)]
            fresh, self._on_link = self._on_link == 0, SESSIONS_PER_LINK if refused else self._on_link + count
            if any(not isinstance(error, asyncssh.ChannelOpenError) for error in refused) or (fresh and not opened):
                raise refused[0]
        except Timeouts as error:
            got = f"no session within {login.CONNECT_S:g} s"
            raise ConnectionLostError(f"{self.name}: the link is silent", got=got) from error
        except asyncssh.ChannelOpenError as error:
            raise DeviceError(f"{self.name}: the server refuses to run a command", got=error.reason) from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionLostError(f"{self.name}: the link was cut", got=cause(error)) from error
        return opened

    def close(self) -> None:
        """End the links, and with them every process still on them."""
        try:
            for link in self._links:
                if link.is_closed():
                    _abandoned.setdefault(self.name, set()).add(self._run)
                try:
                    self._loop.run(_close(link), CLOSE_S)
                except Timeouts:  # a dead link does not say goodbye
                    _abandoned.setdefault(self.name, set()).add(self._run)
        finally:
            self._loop.close()

    def _link(self) -> None:
        self._links.append(open_link(self._loop, self._spec, self._config))
        self._on_link = 0


async def _close(link: asyncssh.SSHClientConnection) -> None:
    try:
        link.abort() if link.is_closed() else link.close()
        await link.wait_closed()
    finally:
        link.abort()
