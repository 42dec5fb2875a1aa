from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.agent import probe
from toolchain.device.messages import check
from toolchain.device.state_messages import Probe, State

PI5 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Hardware\t: BCM2712
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
N100 = """processor\t: 0
model name\t: Intel(R) N100
cpu MHz\t\t: 2900.123
flags\t\t: fpu sse2 avx f16c fma avx2 avx_vnni
"""


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_arm_board(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": PI5, "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert probe.cpu_model(root) == "Raspberry Pi 5 Model B Rev 1.0"
    assert probe.cpu_flags(root) == ["asimd", "fphp", "asimdhp", "asimddp"]
    assert probe.board(root) == "Raspberry Pi 5 Model B Rev 1.0"


def test_x86_board(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": N100, "proc/meminfo": "MemTotal: 16000 kB\nMemAvailable:  8000 kB\n"})
    assert probe.cpu_model(root) == "Intel(R) N100"
    assert probe.cpu_flags(root) == ["avx", "avx2", "fma", "f16c", "avx_vnni"]
    assert probe.memory(root, "MemAvailable") == 8000 * 1024
    assert probe.clocks_mhz(root) == {"cpu0": 2900.123}


def test_state_of_sensors(tmp_path: Path) -> None:
    root = write(tmp_path, {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/class/thermal/thermal_zone0/temp": "51500\n", "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    })  # fmt: skip
    found = probe.state(root)
    assert found["clock_mhz"] == {"cpu0": 1800.0, "cpu1": 600.0}
    assert found["governor"] == "performance"
    assert found["temperature_c"] == {"cpu-thermal:thermal_zone0": 51.5}  # the zone that cannot be read is left out, not 0
    assert sorted(found["throttle_counts"].values()) == [3, 0x50005]


def test_nothing_readable_is_none_with_a_reason(tmp_path: Path) -> None:
    found = check(State, probe.state(str(tmp_path)))
    for name in ("load_average", "memory_free_bytes", "governor", "clock_mhz", "temperature_c", "throttle_counts", "boot_id"):
        assert getattr(found, name) is None
        assert found.unreadable[name]


def test_this_machine_passes_the_hosts_check(tmp_path: Path) -> None:
    found = check(Probe, probe.probe(cache=str(tmp_path / "not" / "there")))
    assert found.cores
    assert found.disk_free_bytes
    runtime = found.runtimes["onnxruntime"]
    assert runtime is not None
    assert "CPUExecutionProvider" in runtime.providers


def test_missing_runtime_is_none_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version() -> str:
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setattr(probe.runtimes.find("onnxruntime"), "version", version)
    found = check(Probe, probe.probe(str(tmp_path)))
    assert found.runtimes == {"onnxruntime": None}
    assert "No module named" in found.unreadable["runtimes.onnxruntime"]
