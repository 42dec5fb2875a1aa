"""An emulated processor is told from a real and from a virtual one."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.agent import emulation


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")


def test_a_real_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert emulation.emulated(str(tmp_path)) is None
    arm(monkeypatch)
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nCPU part\t: 0xd0b\n")
    put(tmp_path, "sys/firmware/devicetree/base/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert emulation.emulated(str(tmp_path)) is None


def test_user_mode(tmp_path: Path) -> None:
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "proc/thread-self/exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert emulation.emulated(str(tmp_path)) == "programs run under qemu-aarch64-static"


def test_processor_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert emulation.emulated(str(tmp_path)) is None
    arm(monkeypatch)
    assert emulation.emulated(str(tmp_path)) == "aarch64 programs on a processor of GenuineIntel"


def test_translated_processor(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "model name\t: QEMU TCG CPU version 2.5+\n")
    assert emulation.emulated(str(tmp_path)) == "the processor is QEMU TCG CPU version 2.5+"


@pytest.mark.parametrize(
    "files",
    [
        {"sys/firmware/devicetree/base/compatible": "nvidia,tegra234\0linux,dummy-virt\0"},
        {"sys/devices/virtual/dmi/id/sys_vendor": "QEMU\n"},
        {"sys/bus/pci/devices/0000:00:00.0/vendor": "0x1b36\n", "sys/bus/pci/devices/0000:00:00.0/device": "0x0008\n"},
    ],
)
def test_whole_arm_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, text in files.items():
        put(tmp_path, name, text)
    arm(monkeypatch)
    assert "the machine is qemu's" in str(emulation.emulated(str(tmp_path)))


def test_virtual_machine_of_a_pc_is_not_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    put(tmp_path, "sys/devices/virtual/dmi/id/sys_vendor", "QEMU\n")
    put(tmp_path, "proc/cpuinfo", "model name\t: AMD EPYC\nflags\t: fpu hypervisor\n")
    assert emulation.emulated(str(tmp_path)) is None
