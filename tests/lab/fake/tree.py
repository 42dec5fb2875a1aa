"""Parts of a played board's tree: clocks, zones, sensors, modes, programs, each as the kernel or the vendor lays it out."""

from __future__ import annotations

import shutil
from pathlib import Path

PROGRAMS = Path(__file__).parent / "bin"
STATE = "var/lib/edge-fake"  # what the stand-in programs remember
BOOT_ID = "11111111-2222-3333-4444-555555555555"


def put(root: Path, name: str, text: str | int) -> None:
    """One file; a number or text gets its end of line, as the kernel gives it."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def program(root: Path, *names: str) -> None:
    """Stand-ins for programs of the board."""
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(PROGRAMS / name, root / "usr/bin" / name)
        (root / "usr/bin" / name).chmod(0o755)


def base(root: Path, *, memory_kb: int, cpuinfo: str, arch: str = "aarch64") -> None:
    """What every Linux has."""
    put(root, "proc/sys/kernel/arch", arch)
    put(root, "proc/cpuinfo", cpuinfo)
    put(root, "proc/meminfo", f"MemTotal: {memory_kb} kB\nMemAvailable: {memory_kb // 2} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB")
    put(root, "proc/loadavg", "0.02 0.05 0.01 1/200 4242")
    put(root, "proc/sys/kernel/random/boot_id", BOOT_ID)


def device_tree(root: Path, model: str, *compatible: str) -> None:
    folder = root / "sys/firmware/devicetree/base"
    folder.mkdir(parents=True)
    (folder / "model").write_text(model + "\0")
    (folder / "compatible").write_text("".join(text + "\0" for text in compatible))


def cpus(root: Path, policies: dict[int, int], *, low_khz: int, high_khz: int, governor: str, measured: bool = True) -> None:
    """cpufreq: first core of each policy -> its number of cores."""
    for first, count in policies.items():
        folder = f"sys/devices/system/cpu/cpufreq/policy{first}"
        for name, value in {
            "cpuinfo_min_freq": low_khz, "cpuinfo_max_freq": high_khz, "scaling_min_freq": low_khz, "scaling_max_freq": high_khz,
            "scaling_cur_freq": low_khz, "scaling_governor": governor,
            "scaling_available_governors": "conservative ondemand userspace powersave performance schedutil",
            "related_cpus": " ".join(str(first + number) for number in range(count)),
        }.items():  # fmt: skip
            put(root, f"{folder}/{name}", value)
        if measured:
            put(root, f"{folder}/cpuinfo_cur_freq", low_khz)


def devfreq(
    root: Path, name: str, *, low: int, high: int, folder: str = "sys/class/devfreq", governor: str = "nvhost_podgov"
) -> None:
    for file, value in {"min_freq": low, "max_freq": high, "cur_freq": low, "governor": governor}.items():
        put(root, f"{folder}/{name}/{file}", value)
    put(root, f"{folder}/{name}/available_governors", f"{governor} userspace performance")
    put(root, f"{folder}/{name}/available_frequencies", f"{low} {high}")


def zones(root: Path, **temperatures: int) -> None:
    """Thermal zones by type, in thousandths of a degree."""
    for number, (kind, value) in enumerate(temperatures.items()):
        put(root, f"sys/class/thermal/thermal_zone{number}/type", kind.replace("_", "-"))
        put(root, f"sys/class/thermal/thermal_zone{number}/temp", value)


def cooling(root: Path, *kinds: str) -> None:
    for number, kind in enumerate(kinds):
        put(root, f"sys/class/thermal/cooling_device{number}/type", kind)
        put(root, f"sys/class/thermal/cooling_device{number}/cur_state", 0)


def ina3221(root: Path, address: str, hwmon: int, rails: dict[str, tuple[int, int]], *, shunt_uohm: int) -> None:
    """One chip: label -> mV, mA. Linked from /sys/class/hwmon and /sys/bus/i2c, as the kernel does it."""
    bus = address.partition("-")[0]
    device = f"sys/devices/platform/bus@0/c240000.i2c/i2c-{bus}/{address}"
    folder = f"{device}/hwmon/hwmon{hwmon}"
    put(root, f"{folder}/name", "ina3221")
    put(root, f"{folder}/samples", 512)
    put(root, f"{folder}/update_interval", 430)
    for number, (label, (millivolt, milliampere)) in enumerate(rails.items(), start=1):
        put(root, f"{folder}/in{number}_label", label)
        put(root, f"{folder}/in{number}_input", millivolt)
        put(root, f"{folder}/curr{number}_input", milliampere)
        put(root, f"{folder}/in{number + 3}_input", milliampere * shunt_uohm // 1000)
        put(root, f"{folder}/shunt{number}_resistor", shunt_uohm)
        put(root, f"{folder}/curr{number}_crit_alarm", 0)
        put(root, f"{folder}/curr{number}_max_alarm", 0)
    put(root, f"{folder}/in7_label", "sum of shunt voltages")
    for place, target in {
        f"sys/class/hwmon/hwmon{hwmon}": folder, f"sys/bus/i2c/drivers/ina3221/{address}": device,
        f"sys/bus/i2c/devices/{address}": device,
    }.items():  # fmt: skip
        link(root, place, target)


def link(root: Path, place: str, target: str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("../" * place.count("/") + target)


def over_current(root: Path, hwmon: int) -> None:
    put(root, f"sys/class/hwmon/hwmon{hwmon}/name", "soctherm_oc")
    for number in (1, 2, 3):
        put(root, f"sys/class/hwmon/hwmon{hwmon}/oc{number}_event_cnt", 0)


def nvpmodel(root: Path, conf: str, modes: list[str], current: int, default: int = 0) -> None:
    """Power modes. Each is "ID NAME KIND CPU_KHZ GPU_HZ"; KIND: live, reboot (asks and is not taken), stuck (is not taken, says
    nothing)."""
    put(root, f"{STATE}/nvpmodel.modes", "\n".join(modes))
    put(root, f"{STATE}/nvpmodel", current)
    blocks = [f"< POWER_MODEL ID={mode.split()[0]} NAME={mode.split()[1]} >\nCPU_ONLINE CORE_0 1\n" for mode in modes]
    put(root, f"etc/nvpmodel/{conf}", "\n".join(["# Power Model Definitions", *blocks, f"< PM_CONFIG DEFAULT={default} >"]))
    (root / "etc/nvpmodel.conf").symlink_to(f"nvpmodel/{conf}")
    put(root, "var/lib/nvpmodel/status", f"pmode:{current:04d} fmode:quiet")
    program(root, "nvpmodel", "jetson_clocks")
