"""Clocks of processor, GPU, memory and NPU: limits, what the kernel steers by, what was measured, where each comes from."""

import fnmatch

from . import nvidia, sysfs

UNITS = (  # unit, patterns of the devfreq device's name or of its device-tree node
    ("gpu", ("*gpu*", "*gv11b*", "*gp10b*", "*ga10b*", "*gb10b*", "*v3d*", "*panfrost*")),
    ("npu", ("*npu*",)),
    ("memory", ("*dmc*", "*bwmgr*", "*emc*", "*memory-controller*")),
)
GPU_FOLDERS = ("/sys/devices/57000000.gpu", "/sys/devices/17000000.gv11b", "/sys/devices/17000000.ga10b")
CLOCK_FILES = (  # EMC of Xavier and Orin, of the Nano; debugfs needs root
    {"unit": "memory", "paths": ["/sys/kernel/debug/bpmp/debug/clk/emc/rate", "/sys/kernel/debug/clk/override.emc/clk_rate"]},
)


def megahertz(value, per_mhz):
    return None if value is None else value / per_mhz


def entry(root, folder, names, per_mhz):
    """One clock; None where a value is not there. `names`: files of min, max, cur, measured."""
    values = [sysfs.first(root, folder, *each) for each in names]
    if all(value is None for value, _ in values[:3]):
        raise ValueError("no clock readable in %s" % folder)
    low, high, cur, real = [megahertz(value, per_mhz) for value, _ in values]
    return {"min_mhz": low, "max_mhz": high, "cur_mhz": cur, "measured_mhz": real, "source": folder}


def cpu(root):
    """One for each policy. Only cpuinfo_cur_freq is measured: over-current dips show nowhere else."""
    names = (["scaling_min_freq"], ["scaling_max_freq"], ["scaling_cur_freq"], ["cpuinfo_cur_freq"])
    folders = sysfs.paths(root, "/sys/devices/system/cpu/cpufreq/policy[0-9]*")
    folders = folders or sysfs.paths(root, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    for folder in folders:
        parts = folder.split("/")
        found = entry(root, folder, names, 1e3)
        found["governor"] = text(root, folder + "/scaling_governor")
        yield "cpu " + (parts[-1] if parts[-1] != "cpufreq" else parts[-2]), found


def unit_of(root, folder, sensors):
    """What a devfreq device drives: as the target says, else by its name."""
    name = folder.split("/")[-1]
    for unit in ("gpu", "npu", "memory"):
        if name in sensors.get(unit + "_devfreq", ()):
            return unit
    names = (name, text(root, folder + "/device/of_node/name") or "")
    for unit, patterns in UNITS:
        if any(fnmatch.fnmatch(each, pattern) for each in names for pattern in patterns):
            return unit
    return "other"


def devfreq(root, sensors):
    names = (["min_freq"], ["max_freq"], ["cur_freq"], [])
    folders = sysfs.paths(root, "/sys/class/devfreq/*")
    seen = {folder.split("/")[-1] for folder in folders}
    for folder in sysfs.paths(root, *[place + "/devfreq/*" for place in GPU_FOLDERS]):
        if folder.split("/")[-1] not in seen:  # where /sys/class/devfreq does not list the GPU
            folders.append(folder)
    for folder in folders:
        found = entry(root, folder, names, 1e6)
        found["governor"] = text(root, folder + "/governor")
        yield "%s %s" % (unit_of(root, folder, sensors), folder.split("/")[-1]), found


def files(root, rules):
    """Clocks that are a file in Hz; min_rate and max_rate beside it where there are."""
    hidden = []
    for rule in rules:
        seen = sysfs.paths(root, *rule["paths"])
        if not seen:
            needs = ", which only %s may see" % rule["requires"] if rule.get("requires") else ""
            hidden.append("%s: no %s%s" % (rule["unit"], " or ".join(rule["paths"]), needs))
        for path in seen[:1]:
            folder, _, name = path.rpartition("/")
            found = entry(root, folder, (["min_rate"], ["max_rate"], [name], []), 1e6)
            found["source"], found["governor"] = path, None
            yield "%s %s" % (rule["unit"], folder.split("/")[-1]), found
    if hidden and rules is not CLOCK_FILES:
        raise ValueError("; ".join(hidden))


def text(root, path):
    try:
        return sysfs.read(root, path)
    except OSError:
        return None


def clocks(root, sensors, rules):
    """Every clock that can be read, and reasons for those that cannot.

    Args:
        sensors, rules: a target's [sensors] and [[clocks.file]], or empty.

    Raises:
        ValueError: none can be read.
    """
    found, unreadable = {}, {}
    for name, read in (
        ("cpu", lambda: cpu(root)),
        ("devfreq", lambda: devfreq(root, sensors)),
        ("files", lambda: files(root, rules or CLOCK_FILES)),
        ("nvidia-smi", lambda: nvidia.clocks(root) if sysfs.program(root, "nvidia-smi") else ()),
    ):
        try:
            for key, value in read():
                found[key] = value
        except (OSError, ValueError) as error:
            unreadable[name] = sysfs.reason(error)
    if not found:
        raise ValueError("; ".join(unreadable.values()) or "neither cpufreq nor devfreq on this machine")
    return found, unreadable
