"""Reach a device: this machine itself, or another over SSH. The only file that knows SSH.

No text that came from outside is ever part of a remote command: the command is fixed words and a checked Python path, everything
else travels on the process's standard input. Host keys are always checked, whatever the ssh config says.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from toolchain.device.agent_package import agent_package
from toolchain.device.channel import ONE_LINER, STDERR_TAIL, Ended
from toolchain.device.host import HostSpec, parse_host
from toolchain.device.loop import Loop, Timeouts
from toolchain.device.machine import Device, LocalDevice
from toolchain.device.session import CACHE, START_S, AgentSession
from toolchain.errors import (
    AuthenticationError,
    ConnectionLostError,
    DeviceError,
    HostKeyError,
    RemoteTimeoutError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Device", "HostSpec", "LocalDevice", "SshDevice", "connect", "parse_host"]

CONNECT_S = 30.0
KEEPALIVE_S, KEEPALIVE_COUNT = 5, 6  # a silent link counts as lost after 30 s: twice an outage of 15 s is survived
SESSIONS_PER_LINK = 8  # OpenSSH allows 10
PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")
FOLDER = re.compile(r"(~/|/)[^\x00-\x1f]*")
WRAPPER = '"$@"; exit $?'  # so that a death by signal is told from a lost link: 128 + signal


def connect(
    host: str, *, python: str | None = None, cache: str | None = None, root: str | None = None, ssh_config: Path | None = None,
    start_s: float = START_S,
) -> Device:  # fmt: skip
    """A device to open sessions on. Use as a context manager.

    Args:
        host: `local`, `user@addr[:port]` or a Host of the ssh config.
        python: command or path of Python there; default `python3`, and for `local` the running interpreter.
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
    python = python or (sys.executable if spec.local else "python3")
    if not spec.local and not PYTHON.fullmatch(python):
        raise UsageError("not a Python command", got=repr(python), fix="a name such as python3 or a path without blanks")
    if not FOLDER.fullmatch(cache):
        raise UsageError("not a folder for the agent", got=repr(cache), fix="an absolute path, or one from ~/")
    if not root.startswith("/") or not FOLDER.fullmatch(root):
        raise UsageError("not the root of a device's files", got=repr(root), fix="an absolute path")
    if spec.local:
        return LocalDevice(python, cache, start_s, root)
    config = ssh_config or (Path(os.environ["EDGE_SSH_CONFIG"]) if os.environ.get("EDGE_SSH_CONFIG") else None)
    return SshDevice(spec, python, cache, config, start_s, root)


class SshDevice:
    """A machine reached over SSH with the user's own keys, agent and config."""

    def __init__(self, spec: HostSpec, python: str, cache: str, config: Path | None, start_s: float, root: str = "/") -> None:
        self.name = spec.text
        self._spec, self._config, self._cache, self._start_s, self._root = spec, config, cache, start_s, root
        words = ["sh", "-c", WRAPPER, "edge", python, "-c", ONE_LINER, str(len(agent_package().loader))]
        self._command = " ".join(shlex.quote(word) for word in words)
        self._loop = Loop()
        self._links: list[asyncssh.SSHClientConnection] = []
        self._sessions = 0
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
        import asyncssh

        if self._sessions and self._sessions % SESSIONS_PER_LINK == 0:
            self._link()
        try:
            process = self._loop.run(self._links[-1].create_process(self._command, encoding=None, env={}), CONNECT_S)
        except Timeouts as error:
            raise RemoteTimeoutError(f"{self.name}: no session in time", got=f"{CONNECT_S:g} s") from error
        except asyncssh.ChannelOpenError as error:
            raise DeviceError(f"{self.name}: the server refuses to run a command", got=error.reason) from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionLostError(f"{self.name}: the link was cut", got=str(error)) from error
        self._sessions += 1
        channel = SshChannel(self._loop, process)
        return AgentSession(channel, self.name, local=False, cache=self._cache, root=self._root, start_s=self._start_s)

    def close(self) -> None:
        """End the links, and with them every process still on them."""
        try:
            for link in self._links:
                self._loop.run(_close(link), 10)
        except Timeouts:
            pass  # a dead link does not say goodbye
        finally:
            self._loop.close()

    def _link(self) -> None:
        self._links.append(open_link(self._loop, self._spec, self._config))


async def _close(link: asyncssh.SSHClientConnection) -> None:
    link.abort() if link.is_closed() else link.close()
    await link.wait_closed()


class SshChannel:
    """One remote process."""

    def __init__(self, loop: Loop, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._loop, self._process = loop, process
        self._stderr, self._lost = b"", ""
        self._loop.run(self._watch_stderr(), 5)

    def read(self, timeout_s: float) -> bytes:
        import asyncssh

        try:
            return self._loop.run(self._process.stdout.read(1 << 16), timeout_s)
        except Timeouts as error:
            raise RemoteTimeoutError("no answer in time", got=f"{timeout_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            self._lost = str(error) or type(error).__name__
            return b""

    def write(self, data: bytes, timeout_s: float) -> None:
        import asyncssh

        async def send() -> None:
            self._process.stdin.write(data)
            await self._process.stdin.drain()

        try:
            self._loop.run(send(), timeout_s)
        except Timeouts as error:
            raise RemoteTimeoutError("the device does not read", got=f"{timeout_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionLostError("the link or the process has ended", got=str(error)) from error

    def finish(self, timeout_s: float) -> Ended:
        async def end() -> None:
            self._process.stdin.write_eof()
            await self._process.wait_closed()

        try:
            self._loop.run(end(), timeout_s)
        except (*Timeouts, OSError):
            self.kill()
        code = self._process.returncode
        stderr = self._stderr.decode("utf-8", "replace")
        if code is None:
            return Ended(None, None, stderr, self._lost or "the process ended without a status")
        return Ended(code, None, stderr) if code >= 0 else Ended(None, -code, stderr)

    def kill(self) -> None:
        async def end() -> None:
            if self._process.returncode is None:
                self._process.kill()
            self._process.close()

        self._loop.run(end(), 5)

    async def _watch_stderr(self) -> None:
        import asyncssh

        async def follow() -> None:
            try:
                while block := await self._process.stderr.read(1 << 16):
                    self._stderr = (self._stderr + block)[-STDERR_TAIL:]
            except (asyncssh.Error, OSError):
                return  # the link is lost: read() on stdout reports it

        self._follower = asyncio.ensure_future(follow())


def open_link(loop: Loop, spec: HostSpec, config: Path | None) -> asyncssh.SSHClientConnection:
    """Connect and log in, or say what stands in the way."""
    import asyncssh

    asked: dict[str, Any] = {"host": spec.address, "config": [str(config)] if config else ()}
    asked |= {key: value for key, value in (("username", spec.user), ("port", spec.port)) if value}
    try:
        options = asyncssh.SSHClientConnectionOptions(**asked)
        hosts, files = _known_hosts(options)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        fix = "add the key to ssh-agent: ssh-add"
        raise AuthenticationError(f"{spec.text}: a private key cannot be read", got=str(error), fix=fix) from error
    except (OSError, ValueError) as error:
        raise UsageError("the ssh config cannot be used", got=str(error), fix="try the same host with ssh itself") from error
    asked |= {"known_hosts": hosts, "preferred_auth": "publickey", "connect_timeout": CONNECT_S, "login_timeout": CONNECT_S}
    asked |= {"keepalive_interval": KEEPALIVE_S, "keepalive_count_max": KEEPALIVE_COUNT}
    where, trusted = f"{spec.text} ({options.host}:{options.port})", _Trusted(options, hosts, files)
    try:
        return loop.run(asyncssh.connect(**asked), CONNECT_S + 5)
    except (asyncssh.ConnectionLost, ConnectionResetError) as error:
        if not trusted.known:
            raise _login_error(error, where, spec, trusted) from error
    except (*Timeouts, asyncssh.Error, OSError, ValueError) as error:
        raise _login_error(error, where, spec, trusted) from error
    try:  # the server hung up: it may have no key of the kind that is known, so ask for any kind to tell a changed key
        return loop.run(asyncssh.connect(**asked, server_host_key_algs="default"), CONNECT_S + 5)
    except (*Timeouts, asyncssh.Error, OSError, ValueError) as error:
        raise _login_error(error, where, spec, trusted) from error


def _login_error(error: Exception, where: str, spec: HostSpec, trusted: _Trusted) -> DeviceError:
    """The error for a connection that did not come about."""
    import asyncssh

    text = str(error) or type(error).__name__
    if isinstance(error, (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)):
        return trusted.error(where, text)
    if isinstance(error, asyncssh.PermissionDenied):
        fix = f"allow your public key there: ssh-copy-id {spec.address}; one with a passphrase must be in ssh-agent: ssh-add"
        return AuthenticationError(f"{where}: the login was refused", got=error.reason, fix=fix)
    if isinstance(error, (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)):
        return AuthenticationError(f"{where}: a private key cannot be read", got=text, fix="add it to ssh-agent: ssh-add")
    if isinstance(error, Timeouts):
        fix = "is it switched on, and is the address right?"
        return RemoteTimeoutError(f"{where}: no connection in time", got=f"{CONNECT_S:g} s", fix=fix)
    if isinstance(error, socket.gaierror):
        fix = "check the spelling, or add the Host to ~/.ssh/config"
        return UnreachableError(f"{where}: no such host name", got=error.strerror, fix=fix)
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(f"{where}: the connection was refused", got=text, fix="is sshd running there, on that port?")
    if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError)):
        return ConnectionLostError(f"{where}: the link was cut during the login", got=text, fix="try again")
    return UnreachableError(f"{where}: cannot be reached", got=text, fix="try the same host with ssh itself")


def _known_hosts(options: asyncssh.SSHClientConnectionOptions) -> tuple[asyncssh.SSHKnownHosts, list[Path]]:
    """The trusted host keys. A config that asks for none (`UserKnownHostsFile none`) gets none: nothing is trusted then."""
    import asyncssh

    named = options.known_hosts
    names = [str(name) for name in named] if isinstance(named, list) else []
    if named == []:
        names = ["~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts"]
    files = [Path(name).expanduser() for name in names]
    return asyncssh.read_known_hosts([str(file) for file in files if file.is_file()]), files


class _Trusted:
    """What known_hosts says about one host, and the repair when the host's key does not fit."""

    def __init__(self, options: asyncssh.SSHClientConnectionOptions, hosts: asyncssh.SSHKnownHosts, files: list[Path]) -> None:
        port = options.port if options.port != 22 else None
        self.name = str(options.host_key_alias or options.host)
        self.entry = f"[{self.name}]:{port}" if port else self.name
        self.file = shlex.quote(str(files[0])) if files else "~/.ssh/known_hosts"
        self.known = any(hosts.match(self.name, "", port)[:3])

    def error(self, where: str, text: str) -> DeviceError:
        """Unknown or changed, with the command that repairs it."""
        if self.known:
            fix = f"if the device was set up anew: ssh-keygen -f {self.file} -R {shlex.quote(self.entry)}, then log in with ssh"
            return HostKeyError(f"{where}: the host key has CHANGED; this may be another machine", got=text, fix=fix)
        if not text.startswith("Host key"):
            return UnreachableError(f"{where}: no common SSH algorithms", got=text)
        fix = f"log in once with ssh {self.name} and compare the fingerprint it shows with the device's own"
        return HostKeyError(f"{where}: the host key is unknown", got=f"not in {self.file}", fix=fix)
