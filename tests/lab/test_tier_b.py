"""Tier B: devices behind wires, and that each harm to a wire really takes effect."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import product
from tests.lab.box import Making
from tests.lab.network import PORT, NetDevice, Network, boxes
from toolchain import errors
from toolchain.device.remote import connect


def banner(device: NetDevice, timeout_s: float = 10.0) -> bytes:
    """First bytes of its ssh server."""
    with socket.create_connection((device.address, device.port), timeout_s) as link:
        return link.recv(100)


def round_trip_ms(device: NetDevice) -> float:
    """Best of three connections that get an answer to their first packet."""
    times = []
    for _ in range(3):
        start = time.monotonic()
        socket.create_connection((device.address, device.port), 10).close()
        times.append((time.monotonic() - start) * 1000)
    return min(times)


def test_devices_of_their_own(make_net: Callable[..., Network], tmp_path: Path) -> None:
    network = make_net(2)
    assert [product.asked(host)["hostname"] for host in ("dev", "dev2")] == ["edge-box-1", "edge-box-2"]
    assert product.tiny_bench(tmp_path, "dev2").engines["one"].latency_ms.n == 2
    second, first = network[1].count("bytes"), network[0].count("bytes")
    assert second > first > 10_000, "every byte went through its wire"


def test_no_way_out_and_no_way_in(lab_net: NetDevice) -> None:
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in routes] == ["127.231.1.0/24"]
    asked = subprocess.run(["ip", "route", "get", "203.0.113.1"], capture_output=True, text=True)
    assert "unreachable" in asked.stderr
    outside = f"nsenter --net=/proc/{os.getppid()}/ns/net {sys.executable} -c"
    dial = f"import socket; socket.create_connection(('{lab_net.address}', {PORT}), 5)"
    slip = subprocess.run([*outside.split(), dial], capture_output=True, text=True)
    assert "refused" in slip.stderr


def test_delay(lab_net: NetDevice) -> None:
    before = round_trip_ms(lab_net)
    lab_net.delay(200)
    assert round_trip_ms(lab_net) >= 200 > before
    assert lab_net.counts()["to_device"]["delayed"] > 0
    lab_net.delay(0)
    assert round_trip_ms(lab_net) < 200


def test_jitter(lab_net: NetDevice) -> None:
    lab_net.delay(40, jitter_ms=15)
    trips = [round_trip_ms(lab_net) for _ in range(3)]
    assert min(trips) >= 10  # 40 less twice 15
    assert banner(lab_net).startswith(b"SSH-2.0")


def test_loss(lab_net: NetDevice) -> None:
    lab_net.loss(0.1)
    assert product.asked()["hostname"] == "edge-box-1"
    lost, arrived = lab_net.count("lost"), lab_net.count("arrived")
    assert 0 < lost < 0.4 * arrived


def test_slow_link(lab_net: NetDevice, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(os.urandom(40_000))
    lab_net.rate_kbit(512)
    start = time.monotonic()
    with connect("dev") as device, device.session() as session:
        session.put(tmp_path / "data.bin")
    assert time.monotonic() - start >= 40_000 * 8 / 512e3
    assert lab_net.counts()["to_device"]["delayed"] > 30


def test_cut(lab_net: NetDevice) -> None:
    with connect("dev") as device, device.session() as session:
        lab_net.cut()
        with pytest.raises(errors.RemoteTimeoutError):
            session.request("state", timeout_s=0.5)
    assert lab_net.count("cut") > 0
    with pytest.raises(OSError, match="No route to host"):
        banner(lab_net, 15)
    lab_net.heal()
    assert product.asked()["hostname"] == "edge-box-1"


def test_a_cut_that_is_shorter_than_patience(lab_net: NetDevice) -> None:
    with connect("dev") as device, device.session() as session:
        lab_net.cut()
        lab_net.heal()
        assert session.request("state", timeout_s=30)["boot_id"]


def test_silent_hole(lab_net: NetDevice) -> None:
    lab_net.hole()
    with pytest.raises(TimeoutError):
        banner(lab_net, 1.5)
    assert lab_net.count("hole") > 0
    assert lab_net.count("cut") == 0
    lab_net.fill()
    assert banner(lab_net).startswith(b"SSH-2.0")


def test_one_device_is_hurt_and_not_the_other(make_net: Callable[..., Network]) -> None:
    network = make_net(2)
    network[0].hole()
    assert product.asked("dev2")["hostname"] == "edge-box-2"
    assert network[1].count("hole") == 0


def test_network_is_left_again(lab_net: NetDevice, tmp_path: Path) -> None:
    ours = os.stat("/proc/thread-self/ns/net").st_ino
    with Network(tmp_path / "other", 1, boxes(Making())) as other:
        assert os.stat("/proc/thread-self/ns/net").st_ino == ours
        with other.entered():
            assert os.stat("/proc/thread-self/ns/net").st_ino != ours
        assert os.stat("/proc/thread-self/ns/net").st_ino == ours
    assert banner(lab_net).startswith(b"SSH-2.0")
