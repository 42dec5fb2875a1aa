"""Trees of files as real boards show them, after captures published by others; none was taken by this project.

`plant(BOARD, root)` writes one. Give it to the product as $EDGE_DEVICE_ROOT or `connect(root=...)`; values may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.lab.fake.tree import (
    BOOT_ID,
    STATE,
    base,
    cooling,
    cpus,
    devfreq,
    device_tree,
    ina3221,
    link,
    nvpmodel,
    over_current,
    program,
    put,
    zones,
)

__all__ = ["BOARDS", "BOOT_ID", "STATE", "plant", "program", "put"]

ORIN_CPUINFO = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat flagm\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
)
PI5_CPUINFO = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nHardware\t: BCM2712\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
)
N100_CPUINFO = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\ncpu MHz\t\t: 2900.123\n"
    "flags\t\t: fpu sse2 avx f16c fma avx2 avx_vnni\n"
)


def orin_nano(root: Path) -> None:
    """Jetson Orin Nano 8GB developer kit, Super, JetPack 6.2 (R36.4.3)."""
    base(root, memory_kb=7_803_000, cpuinfo=ORIN_CPUINFO)
    device_tree(
        root, "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234",
    )  # fmt: skip
    put(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: fake")
    put(root, "etc/nv_boot_control.conf", "TNSPEC 3767-300-0005-R.1-1-1-jetson-orin-nano-devkit-super-\nCOMPATIBLE_SPEC 3767--0005--1--jetson-orin-nano-devkit-super-")  # noqa: E501 # fmt: skip
    put(root, "var/lib/dpkg/status", DPKG)
    cpus(root, {0: 4, 4: 2}, low_khz=729_600, high_khz=1_510_400, governor="schedutil")
    devfreq(root, "17000000.gpu", low=306_000_000, high=624_750_000)
    put(root, "sys/kernel/nvpmodel_clk_cap/emc", 2_133_000_000)
    zones(root, cpu_thermal=45_500, gpu_thermal=44_812, soc0_thermal=44_250, tj_thermal=45_500)
    cooling(root, "pwm-fan", "cpu-throttle-alert", "gpu-throttle-alert", "hot-surface-alert")
    ina3221(root, "1-0040", 1, {"VDD_IN": (5016, 1856), "VDD_CPU_GPU_CV": (5016, 520), "VDD_SOC": (5016, 440)}, shunt_uohm=5000)
    over_current(root, 2)
    put(root, "sys/class/hwmon/hwmon3/name", "pwmfan")
    put(root, "sys/class/hwmon/hwmon3/pwm1", 80)
    modes = ["0 15W live 1510400 624750000", "1 25W live 1728000 918000000", "2 MAXN_SUPER live 1728000 1020000000",
             "3 7W reboot 960000 408000000"]  # fmt: skip
    nvpmodel(root, "nvpmodel_p3767_0003_super.conf", modes, current=0, default=1)


DPKG = """Package: adduser
Status: install ok installed
Version: 3.118ubuntu5

Package: nvidia-l4t-core
Status: install ok installed
Architecture: arm64
Version: 36.4.3-20250107174145
Description: NVIDIA Core Package

Package: libnvinfer10
Status: install ok installed
Architecture: arm64
Version: 10.3.0.30-1+cuda12.5

Package: nvidia-jetpack
Status: deinstall ok config-files
Version: 6.1+b123

Package: cuda-cudart-12-6
Status: install ok installed
Version: 12.6.68-1"""


def agx_orin(root: Path) -> None:
    """Jetson AGX Orin 64GB developer kit, JetPack 5.1 (R35.3.1)."""
    base(root, memory_kb=64_350_000, cpuinfo=ORIN_CPUINFO)
    device_tree(root, "Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234")
    put(root, "etc/nv_tegra_release", "# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref, EABI: aarch64, DATE: fake")
    cpus(root, {0: 4, 4: 4, 8: 4}, low_khz=729_600, high_khz=2_201_600, governor="schedutil")
    devfreq(root, "17000000.ga10b", low=306_000_000, high=1_300_500_000, folder="sys/devices/17000000.ga10b/devfreq")
    link(root, "sys/class/devfreq/17000000.ga10b", "sys/devices/17000000.ga10b/devfreq/17000000.ga10b")
    zones(root, CPU_therm=44_000, GPU_therm=42_000, PMIC_Die=100_000)
    cooling(root, "cpu-throttle-alert", "gpu-throttle-alert")
    ina3221(
        root,
        "1-0040",
        4,
        {"VDD_GPU_SOC": (19_600, 160), "VDD_CPU_CV": (19_600, 20), "VIN_SYS_5V0": (5_008, 640)},
        shunt_uohm=2000,
    )
    ina3221(root, "1-0041", 5, {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (1_800, 340), "NC ": (0, 0)}, shunt_uohm=2000)
    over_current(root, 6)
    modes = ["0 MAXN live 2201600 1300500000", "1 MODE_15W reboot 1113600 420750000", "2 MODE_30W live 1728000 624750000",
             "3 MODE_50W live 1497600 828750000"]  # fmt: skip
    nvpmodel(root, "nvpmodel_p3701_0000.conf", modes, current=2, default=2)


def nano_jp4(root: Path) -> None:
    """Jetson Nano 4GB, JetPack 4.6 (R32.7.1): power through iio, zones that end in -therm, a fan of its own kind."""
    base(root, memory_kb=4_059_000, cpuinfo="Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\nCPU part\t: 0xd07\n")
    device_tree(
        root, "NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"
    )
    put(root, "etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: fake")
    cpus(root, {0: 4}, low_khz=102_000, high_khz=1_479_000, governor="schedutil")
    devfreq(root, "57000000.gpu", low=76_800_000, high=921_600_000, folder="sys/devices/57000000.gpu/devfreq")
    put(root, "sys/kernel/debug/clk/override.emc/clk_rate", 1_600_000_000)
    zones(root, AO_therm=38_500, CPU_therm=29_000, GPU_therm=28_500, PMIC_Die=100_000)
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for number, (rail, milliwatt) in enumerate({"POM_5V_IN": 1_905, "POM_5V_GPU": 42, "POM_5V_CPU": 420}.items()):
        put(root, f"{folder}/rail_name_{number}", rail)
        put(root, f"{folder}/in_power{number}_input", milliwatt)
        put(root, f"{folder}/in_voltage{number}_input", 5_000)
        put(root, f"{folder}/in_current{number}_input", milliwatt // 5)
    put(root, "sys/devices/pwm-fan/cur_pwm", 0)
    put(root, "sys/devices/pwm-fan/temp_control", 1)
    nvpmodel(root, "nvpmodel_t210_jetson-nano.conf", ["0 MAXN live 1479000 921600000", "1 5W live 918000 640000000"], current=0)


def thor(root: Path) -> None:
    """Jetson AGX Thor T5000, JetPack 7.0 (R38.2): a real nvidia-smi, VIN from an INA238 beside the INA3221."""
    base(root, memory_kb=128_800_000, cpuinfo="Features\t: fp asimd asimdhp asimddp sve i8mm bf16 sve2\n")
    device_tree(
        root, "NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p3971-0050+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"
    )
    put(root, "etc/nv_tegra_release", "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: fake")
    cpus(root, {0: 14}, low_khz=972_000, high_khz=2_601_000, governor="schedutil")
    devfreq(root, "gpu-gpc-0", low=315_000_000, high=1_575_000_000)
    devfreq(root, "gpu-nvd-0", low=315_000_000, high=1_692_000_000)
    devfreq(root, "bwmgr", low=665_600_000, high=4_266_000_000)
    zones(root, cpu_thermal=41_000, gpu_thermal=40_500, soc012_thermal=40_000, tj_thermal=41_000)
    cooling(root, "cpu-throttle-alert", "gpu-throttle-alert", "hot-surface-alert")
    rails = {"VDD_GPU": (19_600, 100), "VDD_CPU_SOC_MSS": (19_600, 300), "VIN_SYS_5V0": (5_000, 1_127)}
    ina3221(root, "2-0040", 2, rails, shunt_uohm=2000)
    for name, value in {
        "name": "ina238",
        "label": "VIN",
        "power1_input": 19_780_000,
        "in1_input": 20_000,
        "curr1_input": 989,
    }.items():
        put(root, f"sys/bus/i2c/devices/2-0044/hwmon/hwmon3/{name}", value)
    link(root, "sys/class/hwmon/hwmon3", "sys/bus/i2c/devices/2-0044/hwmon/hwmon3")
    nvpmodel(
        root,
        "nvpmodel_p3834_0008.conf",
        ["0 MAXN live 2601000 1575000000", "1 120W live 2601000 1386000000"],
        current=1,
        default=1,
    )
    put(root, f"{STATE}/nvidia-smi", "NVIDIA Thor, GPU-3b1f8a7e-0000-0000-0000-000000000000")
    put(root, f"{STATE}/card", "[N/A], [N/A], 41")
    put(root, f"{STATE}/throttle_reasons", "0x0000000000000001")
    program(root, "nvidia-smi")


def pi5(root: Path) -> None:
    """Raspberry Pi 5, Raspberry Pi OS 12, no Hailo."""
    base(root, memory_kb=8_256_000, cpuinfo=PI5_CPUINFO)
    device_tree(root, "Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712")
    power = root / "sys/firmware/devicetree/base/chosen/power"
    power.mkdir(parents=True)
    (power / "max_current").write_bytes((5000).to_bytes(4, "big"))
    cpus(root, {0: 4}, low_khz=1_500_000, high_khz=2_400_000, governor="ondemand")
    zones(root, cpu_thermal=51_500)
    cooling(root, "pwm-fan", "thermal-cpufreq-0")
    put(root, f"{STATE}/throttled", "0x0")
    rails = ["3V7_WL_SW 0.05465616 3.68", "3V3_SYS 0.06733680 3.31", "1V8_SYS 0.17860600 1.79", "DDR_VDD2 0.00878328 1.10",
             "DDR_VDDQ 0.00000000 0.61", "1V1_SYS 0.18444600 1.10", "0V8_SW 0.31134800 0.80", "VDD_CORE 0.51978000 0.75",
             "3V3_DAC 0.00030525 3.31", "3V3_ADC 0.00036630 3.31", "0V8_AON 0.00317500 0.79", "HDMI 0.02344440 5.15"]  # fmt: skip
    put(root, f"{STATE}/pmic", "\n".join(rails))  # NAME A V
    program(root, "vcgencmd")


def pi5_hailo(root: Path) -> None:
    """The same with a Hailo-8L on PCIe."""
    pi5(root)
    put(root, "dev/hailo0", "")
    put(root, f"{STATE}/hailo", "HAILO8L")
    program(root, "hailortcli")
    put(root, "sys/class/hailo_chardev/hailo0/device/current_link_speed", "8.0 GT/s PCIe")
    put(root, "sys/class/hailo_chardev/hailo0/device/current_link_width", 1)


def n100(root: Path) -> None:
    """A mini PC with an Intel N100: turbo, throttle counts, RAPL."""
    base(root, memory_kb=16_144_000, cpuinfo=N100_CPUINFO, arch="x86_64")
    for name, value in {"sys_vendor": "AZW", "product_name": "EQ", "board_name": "EQ"}.items():
        put(root, f"sys/devices/virtual/dmi/id/{name}", value)
    cpus(root, {0: 1, 1: 1, 2: 1, 3: 1}, low_khz=700_000, high_khz=3_400_000, governor="powersave", measured=False)
    put(root, "sys/devices/system/cpu/intel_pstate/no_turbo", 0)
    for core in range(4):
        put(root, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", 0)
        put(root, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count", 0)
    zones(root, x86_pkg_temp=47_000)
    put(root, "sys/class/hwmon/hwmon2/name", "coretemp")
    put(root, "sys/class/hwmon/hwmon2/temp1_label", "Package id 0")
    put(root, "sys/class/hwmon/hwmon2/temp1_input", 47_000)
    rapl = "sys/class/powercap/intel-rapl:0"
    for name, value in {"name": "package-0", "energy_uj": 123_456_789, "max_energy_range_uj": 262_143_328_850}.items():
        put(root, f"{rapl}/{name}", value)


def rk3588(root: Path) -> None:
    """Orange Pi 5 Plus, vendor kernel: three CPU policies, an NPU with a clock of its own, no power sensor."""
    base(root, memory_kb=16_200_000, cpuinfo=ORIN_CPUINFO)
    device_tree(root, "Orange Pi 5 Plus", "rockchip,rk3588-orangepi-5-plus", "rockchip,rk3588")
    cpus(root, {0: 4, 4: 2, 6: 2}, low_khz=408_000, high_khz=2_208_000, governor="ondemand")
    for name, high in {"fdab0000.npu": 1_000_000_000, "fb000000.gpu": 1_000_000_000, "dmc": 2_112_000_000}.items():
        devfreq(root, name, low=300_000_000, high=high, governor="simple_ondemand")
    zones(root, soc_thermal=42_000, bigcore0_thermal=43_000, npu_thermal=41_000)
    cooling(root, "thermal-cpufreq-0", "thermal-devfreq-0")


def graphics_card(root: Path) -> None:
    """A desktop PC with an NVIDIA card."""
    base(root, memory_kb=32_000_000, cpuinfo="model name\t: AMD Ryzen 7\nflags\t\t: avx avx2 fma\n", arch="x86_64")
    cpus(root, {0: 1, 1: 1}, low_khz=1_500_000, high_khz=4_500_000, governor="performance", measured=False)
    put(root, f"{STATE}/nvidia-smi", "NVIDIA GeForce RTX 3060, GPU-3b1f8a7e-0000-0000-0000-000000000001")
    put(root, f"{STATE}/card", "210, 2115, 38")
    put(root, f"{STATE}/throttle_reasons", "0x0000000000000001")
    program(root, "nvidia-smi")


def plain_x86(root: Path) -> None:
    """A virtual machine without any sensor."""
    base(
        root,
        memory_kb=25_000_000,
        cpuinfo="model name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu avx avx2 fma hypervisor\n",
        arch="x86_64",
    )


BOARDS: dict[str, Callable[[Path], None]] = {
    "orin-nano": orin_nano, "agx-orin": agx_orin, "nano-jp4": nano_jp4, "thor": thor, "pi5": pi5, "pi5-hailo": pi5_hailo,
    "n100": n100, "rk3588": rk3588, "card": graphics_card, "x86": plain_x86,
}  # fmt: skip


def plant(board: str, root: Path) -> Path:
    """Write the board's tree into `root` and return it."""
    BOARDS[board](root)
    return root
