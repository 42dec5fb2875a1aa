"""The device is not there, is another one, lets nobody in, or is in use: said at once, and what was measured before stays."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.faults import DEV, Told, hasten, listen, measure, measured, nothing_lost
from tests.lab.network import Network
from tests.lab.sshd import Sshd, keygen
from toolchain import errors
from toolchain.device import lock
from toolchain.device.lock import hold
from toolchain.device.remote import connect

HERE = replace(DEV, python=sys.executable)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    hasten(monkeypatch)
    return listen(monkeypatch)


def wrong_host_key(server: Sshd, folder: Path) -> Path:
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {keygen(folder / 'other')}\n")
    return server.client("wrong", UserKnownHostsFile=str(folder / "known_hosts"))


def refused_key(server: Sshd, folder: Path) -> Path:
    keygen(folder / "stranger")
    return server.client("stranger", IdentityFile=str(folder / "stranger"))


def nobody_there(server: Sshd, folder: Path) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return server.client("nobody", Port=str(free.getsockname()[1]))


def no_such_name(server: Sshd, folder: Path) -> Path:
    return server.client("nowhere", HostName="no-such-host.invalid")


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (nobody_there, errors.UnreachableError, "the connection was refused"),
        (no_such_name, errors.UnreachableError, "no such host name"),
        (wrong_host_key, errors.HostKeyError, "the host key has CHANGED"),
        (refused_key, errors.AuthenticationError, "the login was refused"),
    ],
)
def test_said_at_once(
    lab_ssh: Sshd, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Sshd, Path], Path], kind: type[errors.DeviceError], cause: str,
) -> None:  # fmt: skip
    measure(tmp_path, HERE, rounds=2)
    kept = measured(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("EDGE_SSH_CONFIG", str(fault(lab_ssh, tmp_path)))
        with pytest.raises(kind, match=cause):
            measure(tmp_path, HERE, rounds=4)
    assert told.notes == [], "nothing was waited for"
    assert nothing_lost(kept, tmp_path)
    assert measure(tmp_path, HERE, rounds=4).rounds == 4


def test_unreachable_device(make_net: Callable[..., Network], told: Told, tmp_path: Path) -> None:
    device = make_net()[0]
    device.hole()
    with pytest.raises(errors.RemoteTimeoutError, match="no connection in time"):
        measure(tmp_path)
    assert told.notes == []


def test_two_users_at_once(lab_ssh: Sshd, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("dev", python=sys.executable) as device, device.session() as session:
        hold(session, "eve@\x1b[2Jlaptop: toolchain bench")
        with monkeypatch.context() as patch:
            patch.setattr(lock, "OWNER", "f" * 32)  # another user's process
            with pytest.raises(
                errors.DeviceBusyError, match=r"the device is in use(.|\n)*eve@\\x1b\[2Jlaptop: .*since .*:"
            ) as caught:
                measure(tmp_path, HERE)
            assert "\x1b" not in str(caught.value)
            with pytest.raises(errors.DeviceBusyError, match="after 1 s"):
                measure(tmp_path, replace(HERE, wait_s=0.6))
        assert measured(tmp_path).get("one", []) == []
        assert measure(tmp_path, HERE, rounds=1).rounds == 1, "our own second session does not wait for the first"


def test_second_user_waits(lab_ssh: Sshd, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("dev", python=sys.executable) as device:
        session = device.session()
        hold(session, "eve@laptop: toolchain bench")
        monkeypatch.setattr(lock, "OWNER", "f" * 32)
        threading.Thread(target=lambda: (wait_until(lambda: told.notes), session.close())).start()
        assert measure(tmp_path, replace(HERE, wait_s=60.0), rounds=1).rounds == 1
    assert "dev is in use: waiting up to 60 s for eve@laptop: toolchain bench, since" in told.notes[0]
    assert len(told.notes) == 1


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_dead_host_loses_the_device(
    make_net: Callable[..., Network], told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a silent hole nobody says goodbye: the lock would otherwise stay for ever."""
    network = make_net()
    monkeypatch.setattr(lock, "LEASE_S", 2.0)
    monkeypatch.setattr(lock, "BEAT_S", 0.5)
    with connect("dev") as device, device.session() as session:
        hold(session, "eve@laptop")
        time.sleep(3.0)
        assert session.request("state", timeout_s=30)["boot_id"], "a host that is there keeps it"
        network[0].hole()
        monkeypatch.setattr(lock, "OWNER", "f" * 32)
        wait_until(lambda: not any(name.startswith("python") for name in network[0].processes().values()))
        network[0].fill()
        assert measure(tmp_path, rounds=1).rounds == 1
