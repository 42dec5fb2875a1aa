"""What boards say of themselves, from public captures, as the probe's fields: device tree, memory, processor, release."""

from __future__ import annotations

from typing import Any

from toolchain.device.messages import check
from toolchain.device.state_messages import Gpu, Probe, RuntimeInfo

GIB = 1 << 30


def jetson(module: str, soc: str, memory_gib: float, *more: str, **fields: Any) -> dict[str, Any]:
    compatible = [*more, f"nvidia,{module}", f"nvidia,{soc}"]
    return {"arch": "aarch64", "compatible": compatible, "memory_total_bytes": int(memory_gib * GIB), **fields}


BOARDS: dict[str, list[dict[str, Any]]] = {  # target -> machines it must be found for
    "jetson-nano": [
        jetson("p3448-0000", "tegra210", 3.87, "nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", l4t="32.7.1"),
        jetson("p3450-0000", "tegra210", 3.87, board="NVIDIA Jetson Nano Developer Kit", l4t="32.6.1"),
    ],
    "jetson-xavier-nx": [
        jetson("p3668-0000", "tegra194", 7.6, "nvidia,p3509-0000+p3668-0000", l4t="32.7.2"),
        jetson("p3668-0003", "tegra194", 15.5, "nvidia,p3509-0000+p3668-0003", l4t="35.4.1"),
    ],
    "jetson-agx-xavier": [
        jetson("p2888-0001", "tegra194", 31.2, "nvidia,p2822-0000+p2888-0001", l4t="32.7.1"),
        jetson("p2972-0000", "tegra194", 31.2, board="NVIDIA Jetson AGX Xavier Developer Kit", l4t="35.4.1"),
    ],
    "jetson-orin-nano-4gb": [jetson("p3767-0004", "tegra234", 3.4, "nvidia,p3768-0000+p3767-0004", l4t="36.4.3")],
    "jetson-orin-nano-8gb": [
        jetson("p3767-0005", "tegra234", 7.44, "nvidia,p3768-0000+p3767-0005", l4t="35.4.1"),
        jetson(
            "p3767-0005", "tegra234", 7.44, "nvidia,p3768-0000+p3767-0005-super", l4t="36.4.4",
            board="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            nvpmodel_conf="/etc/nvpmodel/nvpmodel_p3767_0003_super.conf",
            boot_control={"TNSPEC": "3767-300-0005-K.2-1-1-jetson-orin-nano-devkit-"},
            gpus=[{"name": "Orin (nvgpu)", "uuid": None}],
        ),
        jetson("p3767-0003", "tegra234", 7.44, "nvidia,p3509-0000+p3767-0003", l4t="36.3.0"),
    ],
    "jetson-orin-nx-8gb": [jetson("p3767-0001", "tegra234", 7.4, "nvidia,p3768-0000+p3767-0001", l4t="35.3.1")],
    "jetson-orin-nx-16gb": [jetson("p3767-0000", "tegra234", 15.3, "nvidia,p3768-0000+p3767-0000-super", l4t="36.4.3")],
    "jetson-agx-orin-32gb": [
        jetson("p3701-0004", "tegra234", 29.8, "nvidia,p3737-0000+p3701-0004", l4t="36.4.0"),
        jetson("p3701-0000", "tegra234", 30.0, "nvidia,p3737-0000+p3701-0000", l4t="35.4.1"),
    ],
    "jetson-agx-orin-64gb": [
        jetson("p3701-0005", "tegra234", 61.4, "nvidia,p3737-0000+p3701-0005", l4t="36.4.7"),
        jetson("p3701-0000", "tegra234", 61.4, "nvidia,p3737-0000+p3701-0000", l4t="36.4.3"),
    ],
    "jetson-thor-t5000": [
        jetson(
            "p3834-0008", "tegra264", 122.8, "nvidia,p4071-0000+p3834-0008", l4t="38.2.1",
            gpus=[{"name": "NVIDIA Thor", "uuid": "GPU-1"}],
        ),
    ],
    "jetson-thor-t4000": [jetson("p3834-0000", "tegra264", 61.0, "nvidia,p4071-0000+p3834-0000", l4t="38.4.0")],
    "raspberry-pi-4": [
        {"arch": "aarch64", "compatible": ["raspberrypi,4-model-b", "brcm,bcm2711"], "board": "Raspberry Pi 4 Model B Rev 1.5"},
    ],
    "raspberry-pi-5": [
        {"arch": "aarch64", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"], "accelerators": []},
        {"arch": "aarch64", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"], "accelerators": ["hailo0", "hailo8"]},
    ],
    "raspberry-pi-5-hailo-8l": [
        {"arch": "aarch64", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"], "accelerators": ["hailo0", "hailo8l"]},
    ],
    "rk3588": [
        {"arch": "aarch64", "compatible": ["rockchip,rk3588-orangepi-5-plus", "rockchip,rk3588"], "board": "RK3588 OPi 5 Plus"},
        {"arch": "aarch64", "compatible": ["rockchip,rk3588s-orangepi-5", "rockchip,rk3588s"], "accelerators": ["fdab0000.npu"]},
    ],
    "intel-n100": [{"arch": "x86_64", "cpu_model": "Intel(R) N100", "dmi": {"sys_vendor": "AZW", "product_name": "EQ"}}],
    "amd-ryzen-embedded": [{"arch": "x86_64", "cpu_model": "AMD Ryzen Embedded V1605B with Radeon Vega Gfx"}],
    "nvidia-dgpu": [
        {"arch": "x86_64", "cpu_model": "Intel(R) Core(TM) i7", "gpus": [{"name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-2"}]},
        {"arch": "x86_64", "cpu_model": "Intel(R) N100", "gpus": [{"name": "Tesla T4", "uuid": "GPU-3"}]},
    ],
}  # fmt: skip
STRANGERS: dict[str, dict[str, Any]] = {  # machines no target describes
    "a server": {"arch": "x86_64", "cpu_model": "AMD EPYC 7763 64-Core Processor", "gpus": []},
    "Jetson TX2": jetson("p2771-0000", "tegra186", 7.7),
    "Jetson Nano 2GB": jetson("p3448-0003", "tegra210", 1.9),
    "a Compute Module 4": {"arch": "aarch64", "compatible": ["raspberrypi,4-compute-module", "brcm,bcm2711"]},
    "a Pi 5 with a 32-bit system": {"arch": "armv7l", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"]},
    "a machine that says nothing": {},
}


def probe(fields: dict[str, Any]) -> Probe:
    """A probe of these fields; the others are what the machine could not tell."""
    gpus = [check(Gpu, gpu) for gpu in fields.get("gpus") or []]
    runtimes = {name: found and check(RuntimeInfo, found) for name, found in fields.get("runtimes", {}).items()}
    empty = {**dict.fromkeys(Probe.model_fields), "unreadable": {}}
    return Probe.model_construct(**{**empty, **fields, "gpus": gpus, "runtimes": runtimes})
