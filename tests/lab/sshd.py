"""Tier A: a real sshd on loopback, child of the test runner; and the keys and settings of every tier's ssh server."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.lab.device import Device, free_port, send, start, wait_for_server
from tests.lab.require import find, needs_programs


class Sshd(Device):
    """A real sshd on loopback, ours alone."""

    def end(self) -> None:
        """End it with everything it started: sessions outlive their server."""
        send(signal.SIGKILL, self._inside())
        self.process.wait(10)

    def cut(self) -> None:
        """Kill what serves the open connections, not the agents themselves."""
        running = {pid: name for pid, name in self.processes().items() if pid != self.process.pid}
        send(signal.SIGKILL, [pid for pid, name in running.items() if name.startswith("sshd")])


def script(path: Path, text: str) -> str:
    """An executable shell script, to stand in for Python; {python} is the running interpreter."""
    path.write_text("#!/bin/sh\n" + text.replace("{python}", sys.executable) + "\n")
    path.chmod(0o755)
    return str(path)


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """A new key pair; returns the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def write_settings(folder: Path, address: str, port: int, user: str, *extra: str) -> None:
    """Keys, sshd_config, and for the client ssh_config and known_hosts, in a folder which must not exist.

    Args:
        extra: lines for sshd_config.
    """
    folder.mkdir(parents=True)
    host_key, user_key = keygen(folder / "host"), keygen(folder / "user")
    (folder / "authorized_keys").write_text(user_key + "\n")
    (folder / "known_hosts").write_text((address if port == 22 else f"[{address}]:{port}") + f" {host_key}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        "UseDNS no\nMaxStartups 100:30:200\nPrintMotd no\n" + "".join(line + "\n" for line in extra)
    )
    (folder / "ssh_config").write_text(client_settings(folder, address, port, user, "dev"))
    (folder / "log").touch()


def client_settings(folder: Path, address: str, port: int, user: str, name: str) -> str:
    """The part of an ssh config for one Host."""
    return (
        f"Host {name}\n  HostName {address}\n  Port {port}\n  User {user}\n  IdentityFile {folder}/user\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
    )


def find_sshd(tier: str = "A") -> Path:
    """The ssh server of this machine; $SSHD names another."""
    needs_programs(tier, ssh_keygen="openssh-client", setpriv="util-linux")
    if "SSHD" not in os.environ:
        needs_programs(tier, sshd="openssh-server")
    path = Path(os.environ.get("SSHD") or find("sshd") or "")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it; a package's own server shares it
    return path


def start_sshd(folder: Path, *extra: str) -> Sshd:
    """Start one; as root or as any user, who can then log in only as itself."""
    program, port = find_sshd(), free_port()
    write_settings(folder, "127.0.0.1", port, getpass.getuser(), *extra)
    command = [program, "-D", "-e", "-f", folder / "sshd_config"]
    with (folder / "log").open("wb") as log:
        server = Sshd(folder, "127.0.0.1", port, start(*command, stdin=subprocess.DEVNULL, stderr=log))
    wait_for_server(server, 10)
    return server
