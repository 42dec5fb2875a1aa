"""Tier D: a whole emulated machine, frozen, reset, rebooted and without power."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import product
from tests.lab.fake import boards
from tests.lab.machine import Machine
from toolchain import errors
from toolchain.device.remote import connect

pytestmark = pytest.mark.machine


def boot_id(machine: Machine) -> str:
    return machine.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()


def test_a_machine_is_a_device(lab_machine: Machine, tmp_path: Path) -> None:
    found = product.asked()
    assert found["arch"] == "aarch64"
    assert found["hostname"] == "edge-machine"
    assert found["cores"] == 2
    assert "dummy-virt" in found["emulated"]
    result = product.tiny_bench(tmp_path)
    assert result.engines["one"].latency_ms.n == 2
    assert any("EMULATED" in flag for flag in result.flags)


def test_frozen_and_thawed(lab_machine: Machine) -> None:
    with connect("dev") as device, device.session() as session:
        before = session.request("state", timeout_s=60)["boot_id"]
        lab_machine.freeze()
        with pytest.raises(errors.RemoteTimeoutError):
            session.request("state", timeout_s=1)
        lab_machine.thaw()
    assert boot_id(lab_machine) == before


def test_reboot(lab_machine: Machine) -> None:
    before = boot_id(lab_machine)
    lab_machine.reboot()
    lab_machine.wait_until_up()
    assert boot_id(lab_machine) not in ("", before)


def test_reset_and_power_cut_keep_what_was_synced(lab_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {boot_id(lab_machine)}
    lab_machine.run("echo kept > /root/synced; sync; echo gone > /root/later")
    lab_machine.reset()
    lab_machine.wait_until_up()
    ids.add(boot_id(lab_machine))
    assert lab_machine.run("cat /root/synced").stdout == "kept\n"
    lab_machine.power_off()
    assert not lab_machine.is_on
    with monkeypatch.context() as patch:
        patch.setattr("toolchain.device.login.CONNECT_S", 1.0)
        with pytest.raises(errors.DeviceError):
            product.asked()
    assert lab_machine.count("cut") > 0
    lab_machine.boot()
    ids.add(boot_id(lab_machine))
    assert len(ids) == 3
    assert lab_machine.run("cat /root/synced").stdout == "kept\n"


def test_a_board_by_its_device_tree(make_machine: Callable[..., Machine]) -> None:
    model = "NVIDIA Jetson Orin Nano Developer Kit"
    machine = make_machine(board=(model, "nvidia,p3768-0000+p3767-0005", "nvidia,tegra234"))
    found = product.asked()
    assert found["board"] == model
    assert found["compatible"] == ["nvidia,p3768-0000+p3767-0005", "nvidia,tegra234", "linux,dummy-virt"]
    assert machine.run("tr -d '\\0' < /proc/device-tree/model").stdout == model


def test_a_board_from_files(make_machine: Callable[..., Machine], tmp_path: Path) -> None:
    make_machine(fake=boards.plant("orin-nano", tmp_path / "tree"))
    found = product.asked()
    assert str(found["board"]).startswith("NVIDIA Jetson Orin Nano")
    assert found["l4t"] == "36.4.3"
    assert found["state"]["temperature_c"]
    assert found["emulated"], "the disguise does not hide it"
