"""A real sshd as a child of the test runner: a device on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = Path(os.environ.get("SSHD", "/usr/sbin/sshd"))
REQUIRED = "A" in os.environ.get("EDGE_LAB_REQUIRED", "").split(",")


def script(path: Path, text: str) -> str:
    """An executable shell script, to stand in for Python; {python} is the running interpreter."""
    path.write_text("#!/bin/sh\n" + text.replace("{python}", sys.executable) + "\n")
    path.chmod(0o755)
    return str(path)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


@dataclass
class Sshd:
    """A real sshd on loopback, ours alone.

    Attributes:
        config: client config with the Host `dev`.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def client(self, name: str, **changes: str) -> Path:
        """Another client config: the usual one with some lines changed."""
        lines = self.config.read_text().splitlines()
        kept = [line for line in lines if line.split()[0] not in changes]
        path = self.folder / name
        path.write_text("\n".join([*kept, *(f"  {key} {value}" for key, value in changes.items())]) + "\n")
        return path

    def cut(self) -> None:
        """Kill what serves the open connections, not the agents themselves."""
        for pid in descendants(self.process.pid):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith("sshd"):
                    os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """A new key pair; returns the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def start_sshd(folder: Path, *extra: str) -> Sshd:
    """Start one; as root or as any user, who can then log in only as itself."""
    missing = [name for name in ("ssh-keygen", str(SSHD)) if shutil.which(name) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)} (apt-get install openssh-server)"
        if REQUIRED:
            pytest.fail(f"EDGE_LAB_REQUIRED asks for tier A, {reason}")
        pytest.skip(reason)
    folder.mkdir()
    host_key, user_key = keygen(folder / "host"), keygen(folder / "user")
    (folder / "authorized_keys").write_text(user_key + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        "UseDNS no\nMaxStartups 100:30:200\nPrintMotd no\n" + "".join(line + "\n" for line in extra)
    )
    (folder / "ssh_config").write_text(
        f"Host dev\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (folder / "log").open("wb")
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log)
    log.close()
    for _ in range(200):
        if b"Server listening" in (folder / "log").read_bytes():
            return Sshd(folder, port, process)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    pytest.fail(f"sshd did not start: {(folder / 'log').read_text()}")


def stop_sshd(server: Sshd) -> None:
    """End it with everything it started."""
    for pid in [*descendants(server.process.pid), server.process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    server.process.wait(10)
