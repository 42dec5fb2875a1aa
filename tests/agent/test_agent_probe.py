"""What a board is, from the files it shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.fake import boards
from toolchain.agent import probe
from toolchain.device.messages import check
from toolchain.device.state_messages import Probe


def probed(board: str, root: Path) -> Probe:
    return check(Probe, probe.probe(str(boards.plant(board, root)), str(root)))


def test_orin_nano(tmp_path: Path) -> None:
    found = probed("orin-nano", tmp_path)
    assert found.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found.compatible == ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"]
    assert found.l4t == "36.4.3"
    assert found.nvpmodel_conf is not None
    assert found.nvpmodel_conf.endswith("nvpmodel_p3767_0003_super.conf")
    assert found.power_modes == {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}
    assert found.boot_control is not None
    assert found.boot_control["COMPATIBLE_SPEC"] == "3767--0005--1--jetson-orin-nano-devkit-super-"
    assert found.packages == {  # what is only remembered by dpkg is not installed
        "nvidia-l4t-core": "36.4.3-20250107174145", "libnvinfer10": "10.3.0.30-1+cuda12.5", "cuda-cudart-12-6": "12.6.68-1",
    }  # fmt: skip
    assert found.cpu_flags == ["asimd", "fphp", "asimdhp", "asimddp"]
    assert found.devfreq == ["17000000.gpu"]
    assert found.gpus == []
    assert found.virtual is None


@pytest.mark.parametrize(
    ("board", "l4t", "compatible", "model"),
    [("agx-orin", "35.3.1", "nvidia,tegra234", "ARM part 0xd42"), ("nano-jp4", "32.7.1", "nvidia,tegra210", "ARM part 0xd07"),
     ("thor", "38.2.0", "nvidia,tegra264", None), ("pi5", None, "brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0"),
     ("rk3588", None, "rockchip,rk3588", "ARM part 0xd42")],
)  # fmt: skip
def test_boards(tmp_path: Path, board: str, l4t: str | None, compatible: str, model: str | None) -> None:
    found = probed(board, tmp_path)
    assert found.l4t == l4t
    assert found.compatible is not None
    assert compatible in found.compatible
    assert found.cpu_model == model
    if l4t is None:
        assert "nvidia-l4t-core" in found.unreadable["l4t"]


def test_l4t_from_the_package_where_the_release_file_is_gone(tmp_path: Path) -> None:
    boards.plant("orin-nano", tmp_path)
    (tmp_path / "etc/nv_tegra_release").unlink()
    assert probe.l4t(str(tmp_path)) == "36.4.3"


def test_accelerators_and_gpus(tmp_path: Path) -> None:
    assert probed("pi5-hailo", tmp_path / "hailo").accelerators == ["hailo0", "hailo8l"]
    assert probed("rk3588", tmp_path / "rk3588").accelerators == ["fdab0000.npu"]
    (gpu,) = probed("thor", tmp_path / "thor").gpus or []
    assert (gpu.name, gpu.uuid) == ("NVIDIA Thor", "GPU-3b1f8a7e-0000-0000-0000-000000000000")
    assert probe.gpus(str(tmp_path / "hailo")) == []


def test_pc(tmp_path: Path) -> None:
    found = probed("n100", tmp_path)
    assert found.cpu_model == "Intel(R) N100"
    assert found.cpu_flags == ["avx", "avx2", "fma", "f16c", "avx_vnni"]
    assert found.dmi == {"sys_vendor": "AZW", "product_name": "EQ", "board_name": "EQ"}
    assert found.memory_total_bytes == 16_144_000 * 1024
    assert found.virtual is None


def test_virtual_machine(tmp_path: Path) -> None:
    assert probed("x86", tmp_path).virtual == "the processor's flag hypervisor"
    boards.put(tmp_path, "sys/devices/virtual/dmi/id/product_name", "Standard PC (Q35) QEMU")
    assert probe.virtual(str(tmp_path)) == "product_name: Standard PC (Q35) QEMU"


def test_cuda_that_is_only_unpacked(tmp_path: Path) -> None:
    boards.put(tmp_path, "usr/local/cuda/version.json", '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}')
    boards.put(
        tmp_path, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release"
    )
    assert probe.packages(str(tmp_path)) == {"cuda": "12.6.11", "nvidia-driver": "540.4.0"}


def test_nothing_is_none_with_a_reason(tmp_path: Path) -> None:
    found = check(Probe, probe.probe(str(tmp_path)))
    for name in ("board", "compatible", "l4t", "nvpmodel_conf", "power_modes", "boot_control", "dmi", "cpu_model", "cpu_flags"):
        assert getattr(found, name) is None
        assert found.unreadable[name]


def test_nothing_is_written(tmp_path: Path) -> None:
    boards.plant("orin-nano", tmp_path)
    before = sorted((path, os.lstat(path).st_mtime_ns) for path in tmp_path.rglob("*"))
    probe.probe(str(tmp_path), str(tmp_path / "cache"))
    assert sorted((path, os.lstat(path).st_mtime_ns) for path in tmp_path.rglob("*")) == before


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
    assert found.runtimes["onnxruntime"] is None
    assert "No module named" in found.unreadable["runtimes.onnxruntime"]
