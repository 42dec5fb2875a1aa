"""What this machine is and the state it is in. A value that cannot be read is null, with the reason beside it."""

import glob
import os
import platform
import re
import shutil
import time

from . import runtimes

FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "amx_tile",
    "asimd",
    "fphp",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


def read(root, path):
    with open(os.path.join(root, path.lstrip("/"))) as stream:
        return stream.read().strip("\0\n ")


def cpu_model(root):
    text = read(root, "/proc/cpuinfo")
    for key in ("model name", "Model", "Hardware", "Processor"):
        found = re.search(r"^%s\s*:\s*(.+)$" % key, text, re.M)
        if found:
            return found.group(1).strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.M)
    if part:
        return "ARM part " + part.group(1)
    raise ValueError("no model in /proc/cpuinfo")


def cpu_flags(root):
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", read(root, "/proc/cpuinfo"), re.M)
    if not found:
        raise ValueError("no flags in /proc/cpuinfo")
    present = set(found.group(1).split())
    return [flag for flag in FLAGS if flag in present]


def memory(root, field):
    found = re.search(r"^%s:\s*(\d+) kB" % field, read(root, "/proc/meminfo"), re.M)
    if not found:
        raise ValueError("no %s in /proc/meminfo" % field)
    return int(found.group(1)) * 1024


def disk_free(folder):
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def each(root, pattern, convert):
    """{path: value} of all files of `pattern` that can be read; raises where there is none."""
    values = {}
    for path in sorted(glob.glob(os.path.join(root, pattern.lstrip("/")))):
        try:
            values[os.path.relpath(path, root)] = convert(read("/", path))
        except (OSError, ValueError):  # some zones answer EAGAIN: unreadable, which is not 0
            continue
    if not values:
        raise ValueError("nothing readable at %s" % pattern)
    return values


def clocks_mhz(root):
    """Clock of every core: the one the kernel steers by, else the one /proc/cpuinfo shows."""
    try:
        found = each(root, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", int)
    except ValueError as error:
        shown = re.findall(r"^cpu MHz\s*:\s*([0-9.]+)$", read(root, "/proc/cpuinfo"), re.M)
        if not shown:
            raise error
        return {"cpu%d" % index: float(value) for index, value in enumerate(shown)}
    return {path.split("/")[4]: value / 1000.0 for path, value in found.items()}


def governor(root):
    return "+".join(sorted(set(each(root, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor", str).values())))


def temperatures_c(root):
    zones = {}
    for path, value in each(root, "/sys/class/thermal/thermal_zone*/temp", int).items():
        zone = os.path.basename(os.path.dirname(path))
        try:
            zone = read(root, os.path.join(os.path.dirname(path), "type")) + ":" + zone
        except OSError:
            pass
        zones[zone] = value / 1000.0
    return zones


def throttle_counts(root):
    """Counters that only grow while the machine throttles; two readings tell whether it did in between."""
    counts = {}
    for pattern, convert in (
        ("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count", int),
        ("/sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc[12]_event_cnt", int),
        ("/sys/devices/platform/soc*/soc*firmware/get_throttled", lambda text: int(text, 16)),
    ):
        try:
            counts.update(each(root, pattern, convert))
        except ValueError:
            continue
    if not counts:
        raise ValueError("no throttle counter known here")
    return counts


def board(root):
    return read(root, "/sys/firmware/devicetree/base/model")


def collect(fields):
    """Call every function; {name: value or None, ..., "unreadable": {name: reason}}."""
    values, unreadable = {}, {}
    for name, function in fields:
        try:
            values[name] = function()
        except Exception as error:  # noqa: BLE001 - the reason goes into the answer
            values[name] = None
            unreadable[name] = "%s: %s" % (type(error).__name__, error)
    values["unreadable"] = unreadable
    return values


def state(root="/"):
    """What may change during a measurement."""
    return collect(
        (
            ("time_unix", time.time),
            ("boot_id", lambda: read(root, "/proc/sys/kernel/random/boot_id")),
            ("load_average", lambda: [float(value) for value in read(root, "/proc/loadavg").split()[:3]]),
            ("memory_free_bytes", lambda: memory(root, "MemAvailable")),
            ("governor", lambda: governor(root)),
            ("clock_mhz", lambda: clocks_mhz(root)),
            ("temperature_c", lambda: temperatures_c(root)),
            ("throttle_counts", lambda: throttle_counts(root)),
        )
    )


def runtime(name):
    module = runtimes.find(name)
    return {"version": module.version(), "providers": list(module.providers()), "precisions": list(module.PRECISIONS)}


def numpy_version():
    import numpy

    return numpy.__version__


def probe(root="/", cache="/"):
    """What the machine is."""
    values = collect(
        (
            ("python", platform.python_version),
            ("numpy", numpy_version),
            ("arch", platform.machine),
            ("kernel", lambda: platform.system() + " " + platform.release()),
            ("hostname", platform.node),
            ("board", lambda: board(root)),
            ("cpu_model", lambda: cpu_model(root)),
            ("cpu_flags", lambda: cpu_flags(root)),
            ("cores", cores),
            ("memory_total_bytes", lambda: memory(root, "MemTotal")),
            ("disk_free_bytes", lambda: disk_free(cache)),
        )
    )
    found = collect([(name, lambda name=name: runtime(name)) for name in runtimes.names()])
    missing = found.pop("unreadable")
    values["unreadable"].update(("runtimes." + name, reason) for name, reason in missing.items())
    values["runtimes"], values["state"] = found, state(root)
    return values


def answer(job):
    return probe(job.root, job.cache)


def answer_state(job):
    return state(job.root)
