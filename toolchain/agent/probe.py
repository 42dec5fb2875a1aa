"""What this machine is. Read only: nothing is installed or written, no program runs but nvidia-smi."""

import os
import platform
import re
import sys

from . import emulation, nvpmodel, runtimes, state, sysfs

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
TREE = "/sys/firmware/devicetree/base"
PACKAGES = re.compile(  # names in dpkg's list that say which CUDA, TensorRT, HailoRT and release there is
    r"nvidia-l4t-core|nvidia-jetpack|cuda-cudart-[0-9-]+|libcudnn[0-9]+(?:-cuda-[0-9]+)?|libnvinfer[0-9]+|libnvinfer-bin|tensorrt"
    r"|hailort|hailo-all|hailort-driver|rknpu2|librknnrt"
)


def arch(root):
    """`uname -m`; a device that is played from files says it in the file where newer kernels do."""
    return platform.machine() if root == "/" else sysfs.read(root, "/proc/sys/kernel/arch")


def cpu_model(root):
    text = sysfs.read(root, "/proc/cpuinfo")
    for key in ("model name", "Model", "Hardware", "Processor"):
        found = re.search(r"^%s\s*:\s*(.+)$" % key, text, re.M)
        if found:
            return found.group(1).strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)$", text, re.M)
    if part:
        return "ARM part " + part.group(1)
    raise ValueError("no model in /proc/cpuinfo")


def features(root):
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", sysfs.read(root, "/proc/cpuinfo"), re.M)
    if not found:
        raise ValueError("no flags in /proc/cpuinfo")
    return set(found.group(1).split())


def cpu_flags(root):
    present = features(root)
    return [flag for flag in FLAGS if flag in present]


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def compatible(root):
    return [text for text in sysfs.read(root, TREE + "/compatible").split("\0") if text]


def l4t(root):
    """NVIDIA's release: 36.4.3 from "# R36 (release), REVISION: 4.3", else from its core package."""
    try:
        found = re.search(r"R(\d+) \(release\), REVISION: ([0-9.]+)", sysfs.read(root, "/etc/nv_tegra_release"))
        if found:
            return "%s.%s" % found.groups()
    except OSError:
        pass
    version = packages(root).get("nvidia-l4t-core")
    if not version:
        raise ValueError("neither /etc/nv_tegra_release nor the package nvidia-l4t-core")
    return version.split("-")[0]


def nvpmodel_conf(root):
    """Where /etc/nvpmodel.conf points: the file's name tells the module and whether it is a "super" release."""
    path = sysfs.below(root, nvpmodel.CONF)
    if os.path.islink(path):
        return os.readlink(path)
    if not os.path.exists(path):
        raise ValueError("no nvpmodel on this device")
    return nvpmodel.CONF


def boot_control(root):
    text = sysfs.read(root, "/etc/nv_boot_control.conf")
    return dict(re.findall(r"^(TNSPEC|COMPATIBLE_SPEC)[ \t]+(\S+)$", text, re.M))


def dmi(root):
    found = {}
    for name in ("sys_vendor", "product_name", "board_name"):
        try:
            found[name] = sysfs.read(root, "/sys/devices/virtual/dmi/id/" + name)
        except OSError:
            continue
    if not found:
        raise ValueError("no DMI tables")
    return found


def virtual(root):
    """What says that this is a virtual machine."""
    for name, text in sorted(dmi_or_nothing(root).items()):
        if re.search(r"qemu|kvm|vmware|virtualbox|virtual machine|bochs|xen|firecracker|google compute|amazon ec2", text, re.I):
            return "%s: %s" % (name, text)
    if "hypervisor" in features(root):
        return "the processor's flag hypervisor"
    return None


def dmi_or_nothing(root):
    try:
        return dmi(root)
    except ValueError:
        return {}


def accelerators(root):
    """Hailo and Rockchip NPUs and Google's TPU by their device files; names of NPUs with a clock of their own; which Hailo."""
    found = [os.path.basename(path) for path in sysfs.paths(root, "/dev/hailo[0-9]*", "/dev/rknpu", "/dev/apex_[0-9]*")]
    found += [name for name in sysfs.children(root, "/sys/class/hailo_chardev") if name not in found]
    if found and found[0].startswith("hailo") and sysfs.program(root, "hailortcli"):
        kind = re.search(r"Device Architecture: (\w+)", sysfs.run(root, ["hailortcli", "fw-control", "identify"])[1])
        found += [kind.group(1).lower()] if kind else []
    return found + [name for name in sysfs.children(root, "/sys/class/devfreq") if name.endswith(".npu")]


def gpus(root):
    if sysfs.program(root, "nvidia-smi") is None:
        return []
    shown = sysfs.answer_of(root, ["nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader"])
    rows = [[part.strip() for part in line.split(",")] for line in shown.splitlines() if "," in line]
    return [{"name": row[0], "uuid": row[1] if row[1].startswith("GPU-") else None} for row in rows]


def packages(root):
    """Versions from dpkg's list, of what dpkg says is installed, and of CUDA where it is only unpacked."""
    found = {}
    try:
        text = sysfs.read(root, "/var/lib/dpkg/status")
    except OSError:
        text = ""
    for block in re.finditer(r"^Package: (%s)\n(?:(?!\n\n)[\s\S])*?^Version: (\S+)" % PACKAGES.pattern, text, re.M):
        if "Status: install ok installed" in block.group(0):
            found[block.group(1)] = block.group(2)
    for path, pattern in (
        ("/usr/local/cuda/version.json", r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([0-9.]+)"'),
        ("/usr/local/cuda/version.txt", r"CUDA Version ([0-9.]+)"),
        ("/proc/driver/nvidia/version", r"Kernel Module\s+(?:for \S+\s+)?([0-9.]+)"),
    ):
        try:
            version = re.search(pattern, sysfs.read(root, path))
        except OSError:
            continue
        if version:
            found["cuda" if "cuda" in path else "nvidia-driver"] = version.group(1)
    return found


def runtime(name):
    module = runtimes.find(name)
    return {"version": module.version(), "providers": list(module.providers()), "precisions": list(module.PRECISIONS)}


def numpy_version():
    import numpy

    return numpy.__version__


def probe(root="/", cache="/"):
    """What the machine is, and its state."""
    values = sysfs.collect(
        (
            ("python", platform.python_version),
            ("executable", lambda: sys.executable),
            ("numpy", numpy_version),
            ("arch", lambda: arch(root)),
            ("kernel", lambda: platform.system() + " " + platform.release()),
            ("hostname", platform.node),
            ("board", lambda: sysfs.read(root, TREE + "/model")),
            ("compatible", lambda: compatible(root)),
            ("l4t", lambda: l4t(root)),
            ("nvpmodel_conf", lambda: nvpmodel_conf(root)),
            ("power_modes", lambda: nvpmodel.modes(root)),
            ("boot_control", lambda: boot_control(root)),
            ("dmi", lambda: dmi(root)),
            ("virtual", lambda: virtual(root)),
            ("emulated", lambda: emulation.emulated(root)),
            ("devfreq", lambda: sysfs.children(root, "/sys/class/devfreq")),
            ("accelerators", lambda: accelerators(root)),
            ("gpus", lambda: gpus(root)),
            ("packages", lambda: packages(root)),
            ("cpu_model", lambda: cpu_model(root)),
            ("cpu_flags", lambda: cpu_flags(root)),
            ("cores", cores),
            ("memory_total_bytes", lambda: state.memory(root, "MemTotal")),
            ("disk_free_bytes", lambda: state.disk_free(cache)),
        )
    )
    found = sysfs.collect([(name, lambda name=name: runtime(name)) for name in runtimes.names()])
    missing = found.pop("unreadable")
    values["unreadable"].update(("runtimes." + name, reason) for name, reason in missing.items())
    values["runtimes"], values["state"] = found, state.state(root, cache)
    return values


def answer(job):
    return probe(job.root, job.cache)
