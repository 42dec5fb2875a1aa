"""The state of a board, from the files it shows and the programs it has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fake import boards
from toolchain.agent import nvidia, processes, state, sysfs, throttle
from toolchain.device.channel import ONE_LINER
from toolchain.device.messages import check
from toolchain.device.state_messages import State


def state_of(board: str, root: Path, **request: Any) -> State:
    return check(State, state.state(str(boards.plant(board, root)), str(root), **request))


def again(root: Path, **request: Any) -> State:
    return check(State, state.state(str(root), str(root), **request))


def test_orin_nano(tmp_path: Path) -> None:
    found = state_of("orin-nano", tmp_path)
    assert found.power_mode is not None
    assert (found.power_mode.name, found.power_mode.id, found.power_mode.source) == ("15W", 0, "nvpmodel -q")
    assert found.clocks is not None
    assert set(found.clocks) == {"cpu policy0", "cpu policy4", "gpu 17000000.gpu"}
    cpu, gpu = found.clocks["cpu policy0"], found.clocks["gpu 17000000.gpu"]
    assert (cpu.min_mhz, cpu.max_mhz, cpu.cur_mhz, cpu.measured_mhz) == (729.6, 1510.4, 729.6, 729.6)
    assert (gpu.min_mhz, gpu.max_mhz, gpu.measured_mhz) == (306.0, 624.75, None)
    assert cpu.source == "/sys/devices/system/cpu/cpufreq/policy0"
    assert not cpu.pinned
    assert found.throttle is not None
    assert {name: sign.kind for name, sign in found.throttle.items() if sign.fatal} == {
        "cpu-throttle-alert (cooling_device1)": "live", "gpu-throttle-alert (cooling_device2)": "live",
        "hot-surface-alert (cooling_device3)": "live", "oc1_event_cnt": "count", "oc2_event_cnt": "count",
    }  # fmt: skip
    assert not found.throttle["oc3_event_cnt"].fatal
    assert {name for name in found.throttle if "alarm" in name} == {
        f"hwmon1/curr{n}_{k}_alarm" for n in (1, 2, 3) for k in ("crit", "max")
    }
    assert found.cooling is not None
    assert found.cooling["pwm-fan:cooling_device0"] == 0
    assert found.fans is not None
    assert found.fans["pwmfan pwm1"].pwm == 80
    assert found.temperature_c is not None
    assert found.temperature_c["gpu-thermal:thermal_zone1"] == 44.812
    assert found.boot_id == boards.BOOT_ID
    assert found.memory_free_bytes == 7_803_000 // 2 * 1024
    assert found.supply_ma is None


def test_mode_where_nvpmodel_does_not_answer(tmp_path: Path) -> None:
    boards.plant("agx-orin", tmp_path)
    (tmp_path / "usr/bin/nvpmodel").write_text("#!/bin/sh\necho 'NVPM ERROR: must be root'; exit 1\n")
    mode = again(tmp_path).power_mode
    assert mode is not None
    assert (mode.name, mode.id, mode.source) == ("MODE_30W", 2, "/var/lib/nvpmodel/status")
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    found = again(tmp_path)
    assert found.power_mode is None
    assert "must be root" in found.unreadable["power_mode"]


def test_zones_of_a_target(tmp_path: Path) -> None:
    found = state_of("agx-orin", tmp_path, sensors={"thermal_ignore": ["PMIC"]})
    assert found.temperature_c is not None
    assert sorted(found.temperature_c) == ["CPU-therm:thermal_zone0", "GPU-therm:thermal_zone1"]
    assert found.clocks is not None
    assert sum(name.startswith("gpu") for name in found.clocks) == 1  # listed twice by the kernel


def test_zone_that_answers_eagain_is_unreadable_and_not_zero(tmp_path: Path) -> None:
    boards.plant("orin-nano", tmp_path)
    zone = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    zone.unlink()
    os.mkfifo(zone)
    reader = os.open(zone, os.O_RDWR)  # a pipe with a writer and no data: read(2) says EAGAIN, as a zone that is switched off
    try:
        found = again(tmp_path)
    finally:
        os.close(reader)
    assert found.temperature_c is not None
    assert "gpu-thermal:thermal_zone1" not in found.temperature_c
    assert "unavailable" in found.unreadable["temperature_c.gpu-thermal:thermal_zone1"]
    assert found.temperature_c["cpu-thermal:thermal_zone0"] == 45.5


def test_nano_on_jetpack_4(tmp_path: Path) -> None:
    found = state_of("nano-jp4", tmp_path)
    assert found.clocks is not None
    assert found.clocks["gpu 57000000.gpu"].max_mhz == 921.6
    assert found.clocks["memory override.emc"].cur_mhz == 1600.0
    assert found.fans is not None
    assert (found.fans["pwm-fan"].pwm, found.fans["pwm-fan"].mode) == (0, 1)


def test_thor(tmp_path: Path) -> None:
    found = state_of("thor", tmp_path)
    assert found.clocks is not None
    assert {"gpu gpu-gpc-0", "gpu gpu-nvd-0", "memory bwmgr"} <= set(found.clocks)
    assert found.throttle is not None
    assert found.throttle["power brake"].value == 0
    boards.put(tmp_path, f"{boards.STATE}/throttle_reasons", "0x0000000000000088")
    nvidia._last.clear()
    moved = again(tmp_path).throttle
    assert moved is not None
    assert {name for name, sign in moved.items() if sign.value and sign.kind == "live"} == {"hardware slowdown", "power brake"}


def test_graphics_card(tmp_path: Path) -> None:
    found = state_of("card", tmp_path)
    assert found.clocks is not None
    card = found.clocks["gpu nvidia0"]
    assert (card.min_mhz, card.max_mhz, card.cur_mhz) == (None, 2115.0, 210.0)
    assert found.temperature_c == {"nvidia0": 38.0}
    (tmp_path / "usr/bin/nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    nvidia._last.clear()
    found = again(tmp_path)
    assert "gpu nvidia0" not in (found.clocks or {})
    assert "has failed" in found.unreadable["clocks.nvidia-smi"]
    assert "has failed" in found.unreadable["temperature_c.nvidia-smi"]


def test_pi5(tmp_path: Path) -> None:
    found = state_of("pi5-hailo", tmp_path)
    assert (found.governor, found.supply_ma) == ("ondemand", 5000)
    assert found.pcie_links == {"hailo0": "8.0 GT/s PCIe x1"}
    boards.put(tmp_path, f"{boards.STATE}/throttled", "0x50005")
    signs = again(tmp_path).throttle
    assert signs is not None
    assert {name: sign.kind for name, sign in signs.items() if sign.value} == {
        "under-voltage": "live", "throttled": "live", "under-voltage since boot": "count", "throttled since boot": "count",
    }  # fmt: skip


def test_pi5_flags_from_the_kernel_where_there_is_no_vcgencmd(tmp_path: Path) -> None:
    boards.plant("pi5", tmp_path)
    (tmp_path / "usr/bin/vcgencmd").unlink()
    boards.put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    signs = again(tmp_path).throttle
    assert signs is not None
    assert signs["under-voltage"].source.endswith("get_throttled")
    assert signs["throttled since boot"].value == 1


def test_vcgencmd_that_fails_is_a_reason(tmp_path: Path) -> None:
    boards.plant("pi5", tmp_path)
    (tmp_path / f"{boards.STATE}/throttled").unlink()
    found = again(tmp_path)
    assert found.throttle is not None
    assert "under-voltage" not in found.throttle
    assert "no flags" in found.unreadable["throttle.vcgencmd get_throttled"]


def test_n100(tmp_path: Path) -> None:
    found = state_of("n100", tmp_path)
    assert (found.governor, found.turbo) == ("powersave", True)
    assert found.clocks is not None
    assert found.clocks["cpu policy3"].measured_mhz is None
    assert found.throttle is not None
    assert len(found.throttle) == 8
    assert found.throttle["cpu2 core_throttle_count"].value == 0
    assert found.temperature_c is not None
    assert found.temperature_c["coretemp:Package id 0"] == 47.0


def test_rk3588(tmp_path: Path) -> None:
    found = state_of("rk3588", tmp_path)
    assert found.clocks is not None
    assert {"npu fdab0000.npu", "gpu fb000000.gpu", "memory dmc", "cpu policy6"} <= set(found.clocks)


def test_throttle_as_the_target_says(tmp_path: Path) -> None:
    rule = {"kind": "counter", "type": None, "hwmon": "soctherm_oc", "files": ["oc[12]_event_cnt"], "paths": [], "program": None}
    found = state_of("orin-nano", tmp_path, sensors={"throttle": [{**rule, "fatal": False}]})
    assert found.throttle is not None
    assert {name for name in found.throttle if "alarm" not in name} == {"oc1_event_cnt", "oc2_event_cnt"}
    assert not found.throttle["oc1_event_cnt"].fatal


def test_clock_file_of_a_target(tmp_path: Path) -> None:
    path = "/sys/kernel/nvpmodel_clk_cap/emc"
    found = state_of("orin-nano", tmp_path, clocks={"file": [{"unit": "memory", "paths": ["/no/such", path], "requires": None}]})
    assert found.clocks is not None
    assert found.clocks["memory nvpmodel_clk_cap"].source == path
    assert found.clocks["memory nvpmodel_clk_cap"].cur_mhz == 2133.0


def test_clock_that_only_root_may_see(tmp_path: Path) -> None:
    hidden = {"unit": "memory", "paths": ["/sys/kernel/debug/bpmp/debug/clk/emc/rate"], "requires": "root"}
    found = state_of("orin-nano", tmp_path, clocks={"file": [hidden]})
    assert "only root may see" in found.unreadable["clocks.files"]
    assert found.clocks is not None


def test_renumbered_hwmon(tmp_path: Path) -> None:
    boards.plant("orin-nano", tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon2").rename(tmp_path / "sys/class/hwmon/hwmon9")
    assert throttle.chips(str(tmp_path), "soctherm_oc") == ["/sys/class/hwmon/hwmon9"]
    signs = again(tmp_path).throttle
    assert signs is not None
    assert "oc1_event_cnt" in signs


def test_nothing_readable_is_none_with_a_reason(tmp_path: Path) -> None:
    found = again(tmp_path)
    for name in ("power_mode", "governor", "turbo", "clocks", "temperature_c", "throttle", "fans", "load_average", "boot_id"):
        assert getattr(found, name) is None
        assert found.unreadable[name]
    assert found.busy == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("throttled=0x50005\n", 0x50005), ("50005", 0x50005), ("0x0000000000000004\n0x0000000000000080\n", 0x84), ("0", 0)],
)
def test_flags_as_text(text: str, value: int) -> None:
    assert throttle.hexadecimal(text) == value
    with pytest.raises(ValueError, match="no flags"):
        throttle.hexadecimal("VCHI initialization failed")


def test_busy_process_is_named_and_ours_is_not() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        time.sleep(0.3)
        named = [one["name"] for one in processes.load("/")["busy"]]
        assert spin.pid not in [one["pid"] for one in processes.load("/")["busy"]]  # a child of ours
    finally:
        spin.kill()
        spin.wait()
    assert os.getpid() not in named


def test_a_stranger_is_seen(tmp_path: Path) -> None:
    (tmp_path / "proc/4242").mkdir(parents=True)
    ticks = iter((100, 100 + os.sysconf("SC_CLK_TCK")))

    def stat(root: str, pid: int) -> tuple[str, int, int]:
        return ("jtop", 1, next(ticks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "stat", stat)
        found = processes.load(str(tmp_path))
    assert found["busy"][0]["name"] == "jtop"
    assert 100 < found["busy"][0]["cpu_percent"] <= 100 / processes.WINDOW_S
    assert found["disturbing"] == ["jtop"]


def test_agents_are_known_by_their_command_line(tmp_path: Path) -> None:
    for pid, words in {
        7: ["python3", "-c", ONE_LINER, "2000"],
        8: ["sh", "-c", '"$@"', "edge", "python3", "-c", ONE_LINER],
    }.items():
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a (b) c) S 1 {pid} {pid} 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 9")
        (folder / "cmdline").write_text("\0".join(words) + "\0")
    assert processes.stat(str(tmp_path), 7) == ("a (b) c", 1, 11)
    assert processes.load(str(tmp_path))["agents"] == 1


def test_programs_are_those_of_the_root(tmp_path: Path) -> None:
    assert sysfs.program(str(tmp_path), "sh") is None
    boards.program(tmp_path, "vcgencmd")
    assert sysfs.program(str(tmp_path), "vcgencmd") == str(tmp_path / "usr/bin/vcgencmd")
    (tmp_path / "usr/bin/vcgencmd").write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(ValueError, match=r"did not end within 0\.2 s"):
        sysfs.run(str(tmp_path), ["vcgencmd"], timeout_s=0.2)
