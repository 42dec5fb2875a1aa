"""The same over a real sshd on loopback, and every way in which reaching a device fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from tests.device.paces import short
from tests.lab.sshd import Sshd, keygen, script, start_sshd
from toolchain import errors
from toolchain.device import agent_package, bundle, transfer
from toolchain.device import session as session_module
from toolchain.device.bench import bench
from toolchain.device.infer import infer
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.predictions import Predictions, candidates

pytestmark = pytest.mark.ssh
PLACE = On("dev", threads=1, python=sys.executable, target="host-cpu")


def test_bench(dev: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    result = bench(engines, tmp_path / "out", PLACE, short(6, 3))
    assert result.engines["two"].latency_ms.n == 18
    assert result.device["runtimes"]["onnxruntime"]["version"]
    assert result.control is not None


def test_bench_with_more_engines_than_one_link_allows(dev: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    many = {f"engine{number}": engines["one"] for number in range(7)}
    result = bench(many, tmp_path / "out", PLACE, short(1, 1))
    assert len(result.engines) == 7


def test_bench_goes_on_after_the_link_was_cut(dev: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def cut() -> None:
        while not (out / "samples" / "two.json").exists():
            time.sleep(0.005)
        dev.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(errors.ConnectionLostError):
        bench(engines, out, PLACE, short(200, 3))
    cutter.join()
    kept = json.loads((out / "samples" / "one.json").read_text())["rounds"]
    assert 1 <= len(kept) < 200
    result = bench(engines, out, PLACE, short(len(kept) + 1, 3))
    assert (result.rounds, result.sessions) == (len(kept) + 1, 2)
    assert json.loads((out / "samples" / "one.json").read_text())["rounds"][:-1] == kept


def test_server_that_allows_few_sessions_on_a_link(tmp_path: Path) -> None:
    server = start_sshd(tmp_path / "few", "MaxSessions 2")
    try:
        with connect("dev", python=sys.executable, ssh_config=server.config) as device:
            sessions = device.sessions(5)
            assert len({session.request("state", timeout_s=60)["boot_id"] for session in sessions}) == 1
            assert len(server.log().split("Accepted publickey")) == 4, "three links"
    finally:
        server.end()


def test_server_that_allows_no_session(tmp_path: Path) -> None:
    server = start_sshd(tmp_path / "none", "MaxSessions 0")
    try:
        assert "refuses to run a command" in refused(errors.DeviceError, python=sys.executable, ssh_config=server.config)
    finally:
        server.end()


def test_infer(dev: Sshd, engines: dict[str, Path], images: Path, tmp_path: Path) -> None:
    result = infer(engines["one"], images, tmp_path / "out.npz", PLACE)
    rows, counts = candidates(tinynet.expected(np.load(images)))
    found = Predictions.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.rows, rows, rtol=1e-4)
    assert result.device["arch"]
    assert not list((Path(os.environ["EDGE_DEVICE_CACHE"]) / "out").glob("*")), "the device keeps nothing that was fetched"


def test_build(dev: Sshd, engines: dict[str, Path], tmp_path: Path) -> None:
    about: dict[str, Any] = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
    bundle.build(engines["one"], tmp_path / "bundle", PLACE, **about)
    bundle.verify(tmp_path / "bundle")


def test_upload_happens_once_per_content(
    sshd: Sshd, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: dict[str, Any] = {"python": sys.executable, "cache": str(tmp_path / "cache"), "ssh_config": sshd.config}
    with connect("dev", **place) as device, device.session() as session:
        there = Path(session.put(engines["one"]))
        assert there.read_bytes() == engines["one"].read_bytes()
        monkeypatch.setattr(transfer, "_send", None)
        assert Path(session.put(engines["one"])) == there  # nothing was sent
        monkeypatch.undo()
        there.write_bytes(b"damaged on the card")
        session.put(engines["one"])
        assert there.read_bytes() == engines["one"].read_bytes()


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is uploaded arrives as zeros."""
    original = session_module.AgentSession.send_raw

    def send_raw(self: Any, data: bytes, *rest: Any, **more: Any) -> None:
        original(self, bytes(len(data)), *rest, **more)

    monkeypatch.setattr(session_module.AgentSession, "send_raw", send_raw)


def test_corrupted_upload_is_detected(dev: Sshd, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(1 << 20))
    with connect("dev", python=sys.executable) as device, device.session() as session:
        with pytest.MonkeyPatch.context() as patch:
            damage(patch)
            with pytest.raises(errors.ProtocolError, match="damaged"):
                session.put(path)
        assert Path(session.put(path)).read_bytes() == path.read_bytes()
    assert not list((Path(os.environ["EDGE_DEVICE_CACHE"]) / "files").glob(".partial-*"))


def test_corrupted_agent_is_detected(dev: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = agent_package.agent_package()
    bad = agent_package.AgentPackage(good.data, good.sha256, good.loader, zlib.compress(b"\0" + good.data[1:]))
    monkeypatch.setattr(session_module, "agent_package", lambda: bad)
    assert "damaged" in refused(errors.ProtocolError, python=sys.executable, cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache" / "agent").iterdir())


def test_login_scripts_that_print(noisy_sshd: Sshd, engines: dict[str, Path], images: Path, tmp_path: Path) -> None:
    with connect("dev", python=sys.executable, ssh_config=noisy_sshd.config) as device, device.session() as session:
        assert session.request("state", timeout_s=60)["time_unix"] > 0
        assert Path(session.put(engines["one"])).exists()


def refused(kind: type[errors.ToolchainError], host: str = "dev", **options: Any) -> str:
    """Text of the error that reaching `host` must end with."""
    with pytest.raises(kind) as caught, connect(host, **options) as device, device.session():
        pass
    assert type(caught.value) is kind
    return str(caught.value)


def test_changed_host_key(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {keygen(tmp_path / 'other')}\n")
    text = refused(errors.HostKeyError, ssh_config=sshd.client("changed", UserKnownHostsFile=str(tmp_path / "known_hosts")))
    assert "CHANGED" in text
    assert f"ssh-keygen -f {tmp_path / 'known_hosts'} -R '[127.0.0.1]:{sshd.port}'" in text


def test_host_key_of_another_algorithm(sshd: Sshd, tmp_path: Path) -> None:
    known = f"[127.0.0.1]:{sshd.port} {keygen(tmp_path / 'other', 'ecdsa')}\n"
    (tmp_path / "known_hosts").write_text(known)
    text = refused(errors.HostKeyError, ssh_config=sshd.client("ecdsa", UserKnownHostsFile=str(tmp_path / "known_hosts")))
    assert "CHANGED" in text


@pytest.mark.parametrize("file", ["/dev/null", "/nonexistent/known_hosts", "none"])
def test_unknown_host_key(sshd: Sshd, file: str) -> None:
    config = sshd.client("unknown", UserKnownHostsFile=file, StrictHostKeyChecking="no")  # the config cannot loosen it
    text = refused(errors.HostKeyError, ssh_config=config)
    assert "unknown" in text
    assert "log in once" in text


def test_unknown_host(dev: Sshd) -> None:
    assert "no such host name" in refused(errors.UnreachableError, "no-such-host.invalid")


def test_refused_port(dev: Sshd) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        assert "refused" in refused(errors.UnreachableError, f"me@127.0.0.1:{taken.getsockname()[1]}")


def test_no_ssh_server(dev: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.device.login.CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        refused(errors.RemoteTimeoutError, f"me@127.0.0.1:{silent.getsockname()[1]}")


def test_refused_key(sshd: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "stranger")
    text = refused(errors.AuthenticationError, ssh_config=sshd.client("stranger", IdentityFile=str(tmp_path / "stranger")))
    assert "ssh-copy-id" in text


def test_unreadable_key(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    refused(errors.AuthenticationError, ssh_config=sshd.client("unreadable", IdentityFile=str(tmp_path / "key")))


def test_key_with_a_passphrase(sshd: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "locked", passphrase="secret words")
    text = refused(
        errors.AuthenticationError, ssh_config=sshd.client("locked", IdentityFile=str(tmp_path / "locked"), IdentityAgent="none")
    )
    assert "ssh-add" in text


def test_missing_ssh_config(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="ssh config"):
        connect("dev", ssh_config=tmp_path / "none")


def test_python_missing(dev: Sshd) -> None:
    assert "no usable Python" in refused(errors.RuntimeMissingError, python="python9.99")


@pytest.mark.parametrize("python", ["python3; reboot", "$(reboot)", "a b", "-c"])
def test_python_that_is_no_command(dev: Sshd, python: str) -> None:
    with pytest.raises(errors.UsageError):
        connect("dev", python=python)


def test_runtime_missing(dev: Sshd, engines: dict[str, Path], images: Path, tmp_path: Path) -> None:
    bare = script(tmp_path / "python", 'exec {python} -S "$@"')
    with pytest.raises(errors.RuntimeMissingError):
        infer(engines["one"], images, tmp_path / "out.npz", On("dev", python=bare))


def test_agent_that_never_starts(dev: Sshd, tmp_path: Path) -> None:
    hung = script(tmp_path / "python", "echo booting; exec sleep 60")
    assert "no answer in time" in refused(errors.RemoteTimeoutError, python=hung, start_s=1.0)


def test_agent_that_hangs(dev: Sshd) -> None:
    with connect("dev", python=sys.executable) as device, device.session() as session:
        os.kill(session.hello.pid, signal.SIGSTOP)
        try:
            with pytest.raises(errors.RemoteTimeoutError):
                session.request("probe", timeout_s=0.5)
        finally:
            os.kill(session.hello.pid, signal.SIGKILL)


def test_agent_that_is_killed(dev: Sshd) -> None:
    with connect("dev", python=sys.executable) as device, device.session() as session:
        os.kill(session.hello.pid, signal.SIGKILL)
        with pytest.raises(errors.DeviceError, match="killed by someone"):  # and not for want of memory: the kernel counted none
            session.request("probe", timeout_s=30)


def test_link_that_is_cut_leaves_no_agent_behind(dev: Sshd) -> None:
    with connect("dev", python=sys.executable) as device, device.session() as session:
        dev.cut()
        with pytest.raises(errors.ConnectionLostError):
            session.request("probe", timeout_s=30)
        for _ in range(200):
            try:
                os.kill(session.hello.pid, 0)
            except ProcessLookupError:
                return
            if Path(f"/proc/{session.hello.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return  # ended; only nobody has fetched its status yet
            time.sleep(0.05)
    pytest.fail("the agent is still there")


def test_unusable_agent_folder(dev: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused(errors.ProtocolError, python=sys.executable, cache=str(tmp_path / "file"))
    with pytest.raises(errors.UsageError):
        connect("dev", cache="relative")
