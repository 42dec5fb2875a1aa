"""Memory of this process, on the host's side and on the GPU's. What cannot be read is None with a reason, never 0."""

import os
import re

from . import sysfs

NVMAP = "/sys/kernel/debug/nvmap/iovmm/clients"
SMI = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]


def memory_mb(field="VmRSS"):
    """Resident memory in MB (1e6 bytes); None where the kernel does not tell."""
    try:
        with open("/proc/self/status") as stream:
            for line in stream:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


def nvmap_mb(text, pid):
    """MB of one process in a Jetson's table of GPU memory; None where it has none.

    A line: client, process, pid, size with a K.
    """
    sizes = re.findall(r"^\S+\s+.*?\s%d\s+(\d+)K\s*$" % pid, text, re.M)
    return sum(int(size) for size in sizes) * 1024 / 1e6 if sizes else None


def smi_mb(text, pid):
    """MB of one process in nvidia-smi's list of `pid, MiB`, summed over its GPUs; None where it has none."""
    sizes = [line.split(",")[1].strip() for line in text.splitlines() if line.split(",")[0].strip() == str(pid)]
    known = [int(size) for size in sizes if size.isdigit()]
    return sum(known) * 1048576 / 1e6 if known else None


def gpu_mb(root, pid=None):
    """GPU memory of this process, MB, and the reason where there is none to tell."""
    pid = os.getpid() if pid is None else pid
    try:
        if sysfs.paths(root, "/etc/nv_tegra_release"):
            found, where = nvmap_mb(sysfs.read(root, NVMAP), pid), NVMAP
        elif sysfs.program(root, SMI[0]):
            found, where = smi_mb(sysfs.answer_of(root, SMI, 5.0), pid), SMI[0]
        else:
            return None, "no NVIDIA driver here"
    except (OSError, ValueError) as error:
        return None, sysfs.reason(error)
    return found, None if found is not None else "%s lists no memory of this process" % where
