"""The state a machine is in: all that may change during a measurement. A value that cannot be read is null, with the reason."""

import glob
import os
import re
import shutil
import struct
import time

from . import frequencies, nvidia, nvpmodel, processes, sysfs, throttle

HWMON_TEMPERATURES = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
HAILO_VENDOR = "0x1e60"


def memory(root, field):
    found = re.search(r"^%s:\s*(\d+) kB" % field, sysfs.read(root, "/proc/meminfo"), re.M)
    if not found:
        raise ValueError("no %s in /proc/meminfo" % field)
    return int(found.group(1)) * 1024


def disk_free(folder):
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def load_average(root):
    return [float(value) for value in sysfs.read(root, "/proc/loadavg").split()[:3]]


def governor(root):
    """The CPU policies' governors, joined where they differ."""
    found = set()
    for path in sysfs.paths(
        root,
        "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
        "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    ):
        found.add(sysfs.read(root, path))
    if not found:
        raise ValueError("no cpufreq on this machine")
    return "+".join(sorted(found))


def turbo(root):
    path = "/sys/devices/system/cpu/intel_pstate/no_turbo"
    if sysfs.paths(root, path):
        return not sysfs.number(root, path)
    if sysfs.paths(root, "/sys/devices/system/cpu/cpufreq/boost"):
        return bool(sysfs.number(root, "/sys/devices/system/cpu/cpufreq/boost"))
    raise ValueError("no turbo switch on this machine")


def temperatures(root, ignore):
    """Every thermal zone and the processor's own sensors, degrees Celsius; and reasons by name for those without an answer."""
    found, unreadable = {}, {}
    for path in sysfs.paths(root, "/sys/class/thermal/thermal_zone*/temp"):
        folder = path[: -len("/temp")]
        zone = folder.split("/")[-1]
        kind = frequencies.text(root, folder + "/type")
        name = "%s:%s" % (kind, zone) if kind else zone
        if not any(part in name for part in ignore):
            read_temperature(root, path, name, found, unreadable)
    for chip in HWMON_TEMPERATURES:
        for folder in throttle.chips(root, chip):
            for path in sysfs.paths(root, folder + "/temp*_input"):
                label = frequencies.text(root, path[: -len("input")] + "label") or path.split("/")[-1]
                read_temperature(root, path, "%s:%s" % (chip, label), found, unreadable)
    if sysfs.program(root, "nvidia-smi"):
        try:
            found.update(nvidia.temperatures(root))
        except ValueError as error:
            unreadable["nvidia-smi"] = sysfs.reason(error)
    if not found and not unreadable:
        raise ValueError("no temperature sensor known here")
    return found, unreadable


def read_temperature(root, path, name, found, unreadable):
    try:
        found[name] = sysfs.number(root, path) / 1000.0
    except (OSError, ValueError) as error:  # a zone that is switched off answers EAGAIN: unreadable, which is not 0
        unreadable[name] = sysfs.reason(error)


def cooling(root):
    """State of every cooling device, fans among them."""
    found = {}
    for path in sysfs.paths(root, "/sys/class/thermal/cooling_device*/cur_state"):
        folder = path[: -len("/cur_state")]
        try:
            name = "%s:%s" % (frequencies.text(root, folder + "/type"), folder.split("/")[-1])
            found[name] = sysfs.number(root, path)
        except (OSError, ValueError):
            continue
    if not found:
        raise ValueError("no cooling device here")
    return found


def fans(root):
    """Fan by hwmon chip or JetPack 4's pwm-fan: pwm 0 to 255, its mode as the kernel numbers it, turns a minute."""
    found = {}
    for path in sysfs.paths(root, "/sys/class/hwmon/hwmon*/pwm[0-9]"):
        folder, _, name = path.rpartition("/")
        chip = frequencies.text(root, folder + "/name") or folder.split("/")[-1]
        found["%s %s" % (chip, name)] = {
            "pwm": sysfs.first(root, folder, name)[0],
            "mode": sysfs.first(root, folder, name + "_enable")[0],
            "rpm": sysfs.first(root, folder, "fan%s_input" % name[3:])[0],
        }
    folder = "/sys/devices/pwm-fan"
    if sysfs.paths(root, folder + "/cur_pwm"):
        pwm, mode = sysfs.first(root, folder, "cur_pwm")[0], sysfs.first(root, folder, "temp_control")[0]
        found["pwm-fan"] = {"pwm": pwm, "mode": mode, "rpm": None}
    if not found:
        raise ValueError("no fan that the kernel knows")
    return found


def supply_ma(root):
    """What the supply of a Raspberry Pi 5 agreed to give; 5000 is a contract for 5 A."""
    path = "/sys/firmware/devicetree/base/chosen/power/max_current"
    if not glob.glob(sysfs.below(root, path)):
        raise ValueError("no supply contract on this machine")
    with open(sysfs.below(root, path), "rb") as stream:
        return struct.unpack(">I", stream.read(4))[0]


def on_battery(root):
    states = [sysfs.read(root, path) for path in sysfs.paths(root, "/sys/class/power_supply/*/status")]
    if not states:
        raise ValueError("no battery known")
    return "Discharging" in states


def pcie_links(root):
    """Speed and width of the link to every Hailo device."""
    folders = [folder + "/device" for folder in sysfs.paths(root, "/sys/class/hailo_chardev/*")]
    if not folders:
        vendors = sysfs.paths(root, "/sys/bus/pci/devices/*/vendor")
        folders = [path[: -len("/vendor")] for path in vendors if sysfs.read(root, path) == HAILO_VENDOR]
    if not folders:
        raise ValueError("no accelerator on PCIe that is known")
    found = {}
    for folder in folders:
        name = folder.split("/")[-2] if folder.endswith("/device") else folder.split("/")[-1]
        speed, width = sysfs.read(root, folder + "/current_link_speed"), frequencies.text(root, folder + "/current_link_width")
        found[name] = "%s x%s" % (speed, width) if width else speed
    return found


def state(root="/", cache="/", sensors=None, clocks=None):
    """What may change during a measurement.

    Args:
        sensors, clocks: of the target, or None for everything known.
    """
    sensors, clocks = sensors or {}, clocks or {}
    rules = sensors.get("throttle") or None
    values = sysfs.collect(
        (
            ("time_unix", time.time),
            ("monotonic_s", time.monotonic),
            ("boot_id", lambda: sysfs.boot_id(root)),
            ("power_mode", lambda: nvpmodel.current(root)),
            ("governor", lambda: governor(root)),
            ("turbo", lambda: turbo(root)),
            ("fans", lambda: fans(root)),
            ("cooling", lambda: cooling(root)),
            ("supply_ma", lambda: supply_ma(root)),
            ("on_battery", lambda: on_battery(root)),
            ("pcie_links", lambda: pcie_links(root)),
            ("load_average", lambda: load_average(root)),
            ("memory_free_bytes", lambda: memory(root, "MemAvailable")),
            ("swap_free_bytes", lambda: memory(root, "SwapFree")),
            ("swap_total_bytes", lambda: memory(root, "SwapTotal")),
            ("disk_free_bytes", lambda: disk_free(cache)),
            ("accelerator_users", lambda: processes.accelerator_users(root)),
        )
    )
    values.update(processes.load(root))
    for name, read in (
        ("clocks", lambda: frequencies.clocks(root, sensors, clocks.get("file"))),
        ("temperature_c", lambda: temperatures(root, sensors.get("thermal_ignore", ()))),
        ("throttle", lambda: throttle.signs(root, rules)),
    ):
        try:
            values[name], missing = read()
            values["unreadable"].update(("%s.%s" % (name, part), why) for part, why in missing.items())
        except Exception as error:  # noqa: BLE001 - the reason goes into the answer
            values[name], values["unreadable"][name] = None, sysfs.reason(error)
    return values


def answer(job):
    """The state, by the target's sensors and clocks where the request has them."""
    return state(job.root, job.cache, job.request.get("sensors"), job.request.get("clocks"))
