"""Log in to a machine over SSH, or say what stands in the way. Host keys are always checked, whatever the ssh config says."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.device.host import HostSpec
from toolchain.device.loop import Loop, Timeouts
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

CONNECT_S = 30.0
KEEPALIVE_S, KEEPALIVE_COUNT = 5.0, 6  # a silent link counts as lost after 30 s: twice an outage of 15 s is survived


def open_link(loop: Loop, spec: HostSpec, config: Path | None) -> asyncssh.SSHClientConnection:
    """Connect and log in.

    Raises:
        UsageError: an ssh config that cannot be used.
        UnreachableError, HostKeyError, AuthenticationError, RemoteTimeoutError, ConnectionLostError: with `reached` False.
    """
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
            raise _not_reached(error, where, spec, trusted) from error
    except (*Timeouts, asyncssh.Error, OSError, ValueError) as error:
        raise _not_reached(error, where, spec, trusted) from error
    try:  # the server hung up: it may have no key of the kind that is known, so ask for any kind to tell a changed key
        return loop.run(asyncssh.connect(**asked, server_host_key_algs="default"), CONNECT_S + 5)
    except (*Timeouts, asyncssh.Error, OSError, ValueError) as error:
        raise _not_reached(error, where, spec, trusted) from error


def _not_reached(error: Exception, where: str, spec: HostSpec, trusted: _Trusted) -> DeviceError:
    found = _login_error(error, where, spec, trusted)
    found.reached = False
    return found


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
