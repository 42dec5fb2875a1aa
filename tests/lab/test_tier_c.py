"""Tier C: an aarch64 Debian under emulation."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import product
from tests.lab.box import Box
from tests.lab.fake import boards
from tests.lab.network import Network
from toolchain import errors
from toolchain.device.remote import connect


def test_an_aarch64_device(lab_arm: Box, tmp_path: Path) -> None:
    found = product.asked()
    assert found["arch"] == "aarch64"
    assert found["hostname"] == "edge-arm64"
    assert found["cpu_model"] == "ARM part 0xd0b"
    assert "asimddp" in found["cpu_flags"]
    assert found["runtimes"]["onnxruntime"]["version"] == "1.32.0"
    assert found["emulated"] == "programs run under qemu-aarch64-static"
    result = product.tiny_bench(tmp_path)
    assert result.engines["one"].latency_ms.n == 2
    assert any("EMULATED" in flag for flag in result.flags)


def test_the_emulator_is_known_inside_only(lab_arm: Box) -> None:
    assert "edge-aarch64" in lab_arm.run("ls /proc/sys/fs/binfmt_misc").stdout
    outside = Path("/proc/sys/fs/binfmt_misc")
    assert not (outside / "edge-aarch64").exists()


def test_sessions_run_on_the_core_that_was_asked_for(make_arm: Callable[..., Box]) -> None:
    """By the features that the emulator itself tells a program, not by the cpuinfo that we laid in."""
    bits = {}
    for core in ("cortex-a72", "cortex-a78ae"):
        auxiliary = make_arm(core).run("LD_SHOW_AUXV=1 /bin/true").stdout
        bits[core] = int(auxiliary.split("AT_HWCAP:")[1].split()[0], 16)
    dot_products = 1 << 20
    assert [bool(bits[core] & dot_products) for core in ("cortex-a72", "cortex-a78ae")] == [False, True]


def test_a_board_from_files(make_arm: Callable[..., Box], tmp_path: Path) -> None:
    make_arm("cortex-a78ae", fake=boards.plant("orin-nano", tmp_path / "tree"))
    found = product.asked()
    assert found["board"].startswith("NVIDIA Jetson Orin Nano")
    assert (found["arch"], found["l4t"], found["cpu_model"]) == ("aarch64", "36.4.3", "ARM part 0xd42")
    assert found["power_modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}
    assert found["state"]["temperature_c"]
    assert found["emulated"], "the disguise does not hide it"


def test_frozen_and_killed(lab_arm: Box) -> None:
    with connect("dev") as device, device.session() as session:
        lab_arm.freeze()
        with pytest.raises(errors.RemoteTimeoutError):
            session.request("state", timeout_s=0.5)
        lab_arm.thaw()
    with connect("dev") as device, device.session() as session:
        assert len(lab_arm.kill("python")) == 1
        with pytest.raises(errors.DeviceError, match="killed"):
            session.request("state", timeout_s=60)


def test_aarch64_device_behind_a_wire(make_net: Callable[..., Network]) -> None:
    network = make_net(1, core="cortex-a72")
    network[0].delay(40)
    assert product.asked()["arch"] == "aarch64"
    assert network[0].counts()["from_device"]["delayed"] > 10
    assert subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip() != "aarch64"
