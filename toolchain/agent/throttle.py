"""Signs that the device slowed itself down, by rules of a target, or every sign known.

A sign is "live": above 0 means now; or a "count": it only grows, so two readings tell what happened in between.
"""

import fnmatch
import re

from . import nvidia, sysfs

PI_BITS = {
    "0": "under-voltage", "1": "ARM frequency capped", "2": "throttled", "3": "soft temperature limit",
    "16": "under-voltage since boot", "17": "ARM frequency capped since boot", "18": "throttled since boot",
    "19": "soft temperature limit since boot",
}  # fmt: skip
NVIDIA_BITS = {"3": "hardware slowdown", "5": "software thermal slowdown", "6": "hardware thermal slowdown", "7": "power brake"}
# Without a target: Tegra's cooling devices and over-current counters, the kernel's passive cooling, Intel's counters, the Pi's
# flags, NVML's reasons (nvml.h). OC3 counts instants that cost next to nothing and rises constantly in the fastest modes: noted.
KNOWN = (
    [{"kind": "cooling", "type": name, "fatal": True}
     for name in ("*-throttle-alert", "hot-surface-alert", "*cpufreq-*", "*devfreq-*")]
    + [
        {"kind": "counter", "hwmon": "soctherm_oc", "files": ["oc1_event_cnt", "oc2_event_cnt"], "fatal": True},
        {"kind": "counter", "hwmon": "soctherm_oc", "files": ["oc3_event_cnt"], "fatal": False},
        {"kind": "counter", "paths": ["/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"], "fatal": True},
        {"kind": "flags", "paths": ["/sys/devices/platform/soc*/*firmware*/get_throttled"], "fatal": True,
         "program": "vcgencmd get_throttled", "bits": PI_BITS, "sticky": [16, 17, 18, 19]},
        {"kind": "flags", "hwmon": "rpi_volt", "files": ["in0_lcrit_alarm"], "fatal": True},
        {"kind": "flags", "program": "nvidia-smi clocks_throttle_reasons", "bits": NVIDIA_BITS, "sticky": [], "fatal": True},
    ]
)  # fmt: skip
ALARMS = {"kind": "flags", "hwmon": "ina3221", "files": ["curr*_crit_alarm", "curr*_max_alarm"], "fatal": False}
PROGRAMS = {
    "vcgencmd get_throttled": ("vcgencmd", lambda root: sysfs.answer_of(root, ["vcgencmd", "get_throttled"], 5.0)),
    "nvidia-smi clocks_throttle_reasons": ("nvidia-smi", nvidia.throttle_reasons),
}


def chips(root, name):
    """hwmon folders of this name; their numbers change between boots."""
    found = []
    for path in sysfs.paths(root, "/sys/class/hwmon/hwmon*/name"):
        try:
            if sysfs.read(root, path) == name:
                found.append(path[: -len("/name")])
        except OSError:
            continue
    return found


def files(root, rule):
    found = sysfs.paths(root, *rule.get("paths") or [])
    for folder in chips(root, rule["hwmon"]) if rule.get("hwmon") else []:
        found += sysfs.paths(root, *[folder + "/" + name for name in rule["files"]])
    return found


def cooling(root, rule):
    for path in sysfs.paths(root, "/sys/class/thermal/cooling_device*/type"):
        kind, folder = sysfs.read(root, path), path[: -len("/type")]
        if fnmatch.fnmatch(kind, rule["type"]):
            name = "%s (%s)" % (kind, folder.split("/")[-1])
            yield name, "live", folder, lambda folder=folder: sysfs.number(root, folder + "/cur_state")


def counter(root, rule):
    for path in files(root, rule):
        parts = path.split("/")
        core = parts[5] + " " if path.startswith("/sys/devices/system/cpu/") else ""
        yield core + parts[-1], "count", path, lambda path=path: sysfs.number(root, path)


def flags(root, rule):
    """One sign for each bit that has a meaning; without meanings, one for each file."""
    if not rule.get("bits"):
        for path in files(root, rule):
            yield "/".join(path.split("/")[-2:]), "live", path, lambda path=path: sysfs.number(root, path)
        return
    sources = [(path, lambda path=path: sysfs.read(root, path)) for path in files(root, rule)]
    name, asked = PROGRAMS.get(rule.get("program"), (None, None))
    if name and sysfs.program(root, name):
        sources.append((rule["program"], lambda: asked(root)))
    for number, (source, ask) in enumerate(sources):
        try:
            value = hexadecimal(ask())
        except (OSError, ValueError):
            if number == len(sources) - 1:
                yield source, "live", source, lambda ask=ask: hexadecimal(ask())
            continue
        for bit in sorted(rule["bits"], key=int):
            kind = "count" if int(bit) in rule.get("sticky", []) else "live"
            yield rule["bits"][bit], kind, source, lambda bit=bit, value=value: value >> int(bit) & 1
        return


def hexadecimal(text):
    """`throttled=0x50005`, `0x0000000000000004`, or the kernel's bare `50005`; of several lines, all bits together."""
    found = re.findall(r"(?:0x|^)([0-9a-fA-F]+)\s*$", text, re.M)
    if not found:
        raise ValueError("no flags in %r" % text[:80])
    value = 0
    for word in found:
        value |= int(word, 16)
    return value


READERS = {"cooling": cooling, "counter": counter, "flags": flags}


def signs(root, rules):
    """Read every sign.

    Args:
        rules: entries of a target's sensors.throttle, or None for all that are known.

    Returns:
        signs by name, and reasons by name for those that cannot be read.

    Raises:
        ValueError: nothing of the kind exists here.
    """
    found, unreadable = {}, {}
    for rule in (KNOWN if rules is None else rules) + [ALARMS]:
        for name, kind, source, ask in READERS[rule["kind"]](root, rule):
            try:
                found.setdefault(name, {"kind": kind, "value": ask(), "fatal": bool(rule["fatal"]), "source": source})
            except (OSError, ValueError) as error:
                unreadable[name] = sysfs.reason(error)
    if not found and not unreadable:
        raise ValueError("no throttle indicator known here")
    return found, unreadable
