"""Tiers A and A+: this machine as a device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import product
from tests.lab.box import Box
from tests.lab.sshd import Sshd
from toolchain import errors
from toolchain.device.remote import connect


def test_sshd_is_a_device(lab_ssh: Sshd, tmp_path: Path) -> None:
    assert product.asked(python=sys.executable)["runtimes"]["onnxruntime"]
    assert product.tiny_bench(tmp_path, python=sys.executable).engines["one"].latency_ms.n == 2
    assert "Accepted publickey" in lab_ssh.log()


def test_box_is_a_device(lab_box: Box, tmp_path: Path) -> None:
    found = product.asked()
    assert found["hostname"].startswith("edge-box")
    assert found["disk_free_bytes"] < 256 << 20
    assert product.tiny_bench(tmp_path).engines["one"].latency_ms.n == 2


def test_what_a_box_writes_stays_inside(lab_box: Box) -> None:
    assert lab_box.run("echo here > /etc/edge-lab-was-here; cat /etc/edge-lab-was-here").stdout == "here\n"
    assert not Path("/etc/edge-lab-was-here").exists()
    assert lab_box.run("ls -A ~").stdout == "", "the developer's home is no device's"


def test_full_disk(make_box: Callable[..., Box]) -> None:
    ended = make_box(disk="8m").run("dd if=/dev/zero of=/var/full bs=1M count=64")
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr


def test_out_of_memory(make_box: Callable[..., Box]) -> None:
    box = make_box(memory="128M")
    ended = box.run("python3 -c 'b = bytearray(600 << 20)'")
    assert ended.returncode == 137, ended
    assert box.run("echo still here").stdout == "still here\n"


def test_cpu_limit(make_box: Callable[..., Box]) -> None:
    work = "import time; start = time.monotonic()\nwhile time.process_time() < 0.3: pass\nprint(time.monotonic() - start)"
    assert float(make_box(cpus=0.2).run(f"python3 -c '{work}'").stdout) > 0.5


def test_hardware_from_files(make_box: Callable[..., Box], tmp_path: Path) -> None:
    zone = tmp_path / "tree/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("45500\n")
    release = tmp_path / "tree/etc/nv_tegra_release"
    release.parent.mkdir()
    release.write_text("# R36\n")
    box = make_box(fake=tmp_path / "tree")
    assert box.run("cat /etc/nv_tegra_release; ls /sys").stdout == "# R36\nclass\n"
    assert list(product.asked()["state"]["temperature_c"].values()) == [45.5]
    (zone / "temp").write_text("91000\n")  # changes are seen while it runs
    assert list(product.asked()["state"]["temperature_c"].values()) == [91.0]


def test_frozen_and_thawed(lab_box: Box) -> None:
    with connect("dev") as device, device.session() as session:
        lab_box.freeze()
        with pytest.raises(errors.RemoteTimeoutError):
            session.request("state", timeout_s=0.5)
        lab_box.thaw()
    assert product.asked()["hostname"].startswith("edge-box")


def test_killed_agent(lab_box: Box) -> None:
    with connect("dev") as device, device.session() as session:
        assert len(lab_box.kill("python")) == 1
        with pytest.raises(errors.DeviceError, match="killed by someone"):
            session.request("state", timeout_s=30)


def test_crashed_box(lab_box: Box) -> None:
    with connect("dev") as device, device.session() as session:
        lab_box.crash()
        with pytest.raises(errors.ConnectionLostError):
            session.request("state", timeout_s=30)
    with pytest.raises(errors.UnreachableError):
        product.asked()


def test_name_of_the_python_process(lab_box: Box) -> None:
    with connect("dev") as device, device.session():
        assert any(name.startswith("python") for name in lab_box.processes().values())
